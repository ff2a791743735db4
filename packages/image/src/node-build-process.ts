/**
 * Builds in a process of its own: a build holds hundreds of megabytes for seconds, which a server that has once held them keeps for good
 * (measured: 362 MiB resident after a build in the server, 142 before).
 */
import { spawn } from 'node:child_process'
import { extname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { Fault, faultFromJson, type FaultJson } from '@typevisor/base'
import type { ImageName } from '@typevisor/model'
import type { NodeImageStore } from './node-image-store.ts'
import type { Image, ImageStore } from './ports.ts'

export interface BuildProcessOptions {
  /** What the store that is wrapped was made with. */
  readonly folder: string
  readonly cacheFolder: string
}

/** What `build.ts --lines` prints, a line each. */
export type BuildLine =
  | { readonly kind: 'progress'; readonly fraction: number; readonly message: string }
  | { readonly kind: 'image'; readonly image: Image }
  | { readonly kind: 'fault'; readonly fault: FaultJson }

type BuildOptions = NonNullable<Parameters<ImageStore['build']>[1]>

const PROGRAM = join(import.meta.dirname, `build${extname(import.meta.filename)}`)
const STDERR_KEPT = 4096

/**
 * The same store, but for `build`. An abort asks the process to stop; it leaves no half image. What nobody holds any more is pruned here:
 * the process knows no holders.
 */
export function withBuildProcess(store: NodeImageStore, options: BuildProcessOptions): ImageStore {
  const running = new Map<ImageName, Promise<unknown>>()
  return {
    list: () => store.list(),
    get: (name) => store.get(name),
    remove: (name) => store.remove(name),
    async build(name, buildOptions = {}) {
      // Two builds of one image would do the same work twice: the second waits, then finds everything made.
      const before = running.get(name) ?? Promise.resolve()
      const work = before
        .catch(() => {})
        .then(() => runBuild(name, options, buildOptions))
        .then(async (image) => {
          // The image is there; what cannot be removed now is tried again behind the next build.
          await store.prune(name).catch(() => {})
          return image
        })
      running.set(name, work)
      try {
        return await work
      } finally {
        if (running.get(name) === work) running.delete(name)
      }
    },
  }
}

async function runBuild(
  name: ImageName,
  { folder, cacheFolder }: BuildProcessOptions,
  { signal, progress }: BuildOptions,
): Promise<Image> {
  signal?.throwIfAborted()
  const child = spawn(
    process.execPath,
    ['--no-warnings', PROGRAM, '--lines', '--folder', folder, '--cache', cacheFolder, '--', name],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('close', resolve)
    child.once('error', reject)
  })
  const stop = (): void => void child.kill('SIGINT')
  signal?.addEventListener('abort', stop, { once: true })
  let complaints = ''
  child.stderr.on('data', (part: Buffer) => (complaints = (complaints + part.toString()).slice(-STDERR_KEPT)))
  let last: BuildLine | null = null
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      last = JSON.parse(line) as BuildLine // our own program wrote it
      if (last.kind === 'progress') progress?.(last.fraction, last.message)
    }
    const code = await ended
    signal?.throwIfAborted()
    if (last?.kind === 'image') return last.image
    if (last?.kind === 'fault') throw faultFromJson(last.fault)
    throw new Fault('failed', `build image ${name}: its process ended with ${code}: ${complaints.trim()}`)
  } finally {
    signal?.removeEventListener('abort', stop)
  }
}

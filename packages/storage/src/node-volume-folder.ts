/**
 * A store in a folder: its file, its lock, and while it is served the socket by which others ask for things (`node-volume-server.ts`).
 *
 *   DIR/store          the store
 *   DIR/lock           held by whoever has it open
 *   DIR/control.sock   there while it is served
 */
import { existsSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault, type Clock, type Log, type Rng } from '@typevisor/base'
import { nodeChecksum, nodeStoreFile } from './node-store-file.ts'
import { answerVolumes, type AnsweringServer, type VolumeServerOptions } from './node-volume-server.ts'
import { Store } from './store/store.ts'
import { ServedStore } from './volume-commands.ts'

export interface VolumeFolderOptions {
  readonly dir: string
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  /** Locks for as long as the process lives. @throws Fault `conflict`. */
  readonly lock: (path: string) => Disposable
  /** A folder without a store gets one. */
  readonly create: boolean
  /** Only looked at and mended: nothing else works on it meanwhile. */
  readonly checks?: boolean
}

export interface VolumeFolder extends AsyncDisposable {
  readonly served: ServedStore
  /** Begins to answer on the control socket. */
  answer(options: Pick<VolumeServerOptions, 'version' | 'stop'>): Promise<Pick<AnsweringServer, 'hello'>>
  close(): Promise<void>
}

const storePath = (dir: string): string => join(dir, 'store')

/** @throws Fault `conflict` when another process has it open, `not_found` when there is none, `failed` for damage. */
export async function openVolumeFolder(options: VolumeFolderOptions): Promise<VolumeFolder> {
  const { dir, create, lock, checks = false, ...parts } = options
  const path = storePath(dir)
  if (!create && !existsSync(path)) throw new Fault('not_found', `${dir}: there are no volumes (no ${path})`)
  await using building = new AsyncDisposableStack()
  if (create) await mkdir(dir, { recursive: true, mode: 0o700 })
  building.use(lock(join(dir, 'lock')))
  const isNew = !existsSync(path)
  const file = nodeStoreFile({ path, create: isNew })
  const store = await (isNew ? Store.create : Store.open)({ ...parts, file, checksum: nodeChecksum, collects: !checks }).catch(
    async (error: unknown) => {
      await file.close()
      // A store that was never made whole is none: the next one makes it.
      if (isNew) await rm(path, { force: true })
      throw error
    },
  )
  building.defer(() => store.close())
  const served = new ServedStore(store, { repairs: checks })
  const done = building.move()
  let closing: Promise<void> | null = null
  const close = (): Promise<void> => (closing ??= done.disposeAsync())
  return {
    served,
    answer: async (about) => {
      const { clock, log } = parts
      return done.use(await answerVolumes({ ...about, dir, served, clock, log }))
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

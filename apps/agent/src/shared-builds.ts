/**
 * Image builds that their callers share: who asks for an image that is being built joins that build, and it ends early only when the last
 * of them has withdrawn. That a command is done once, and a late one of an older owner not at all, is seen to before (`service.ts`).
 */
import { toFault } from '@typevisor/base'
import type { Image, ImageStore } from '@typevisor/image'
import type { ImageName } from '@typevisor/model'
import type { AgentImage } from '@typevisor/api/agent-wire'

type Progress = (fraction: number, message: string) => void

interface Build {
  readonly result: Promise<AgentImage>
  readonly ending: AbortController
  readonly callers: Set<Progress>
}

export function toAgentImage(image: Image): AgentImage {
  return {
    name: image.name,
    title: image.title,
    digest: image.digest,
    sizeBytes: image.rootDisk.fileBytes,
    virtualBytes: image.rootDisk.virtualBytes,
    minimumMemoryBytes: image.minimum.memoryBytes,
    defaultUser: image.defaultUser,
    contents: image.contents,
    builtAt: image.builtAt,
  }
}

export class SharedBuilds {
  readonly #images: Pick<ImageStore, 'build'>
  readonly #builds = new Map<ImageName, Build>()

  constructor(images: Pick<ImageStore, 'build'>) {
    this.#images = images
  }

  async build(name: ImageName, caller: { signal: AbortSignal | undefined; progress: Progress }): Promise<AgentImage> {
    const { signal } = caller
    // One that everybody has left is over before the next begins.
    for (let left = this.#builds.get(name); left?.ending.signal.aborted; left = this.#builds.get(name)) {
      await left.result.catch(() => {})
    }
    signal?.throwIfAborted()
    const build = this.#builds.get(name) ?? this.#begin(name)
    // A function of this call's own: two callers may hand in the same one.
    const progress: Progress = (fraction, message) => caller.progress(fraction, message)
    build.callers.add(progress)
    const withdrawn = Promise.withResolvers<never>()
    const withdraw = () => withdrawn.reject(toFault(signal?.reason))
    signal?.addEventListener('abort', withdraw, { once: true })
    try {
      return await Promise.race([build.result, withdrawn.promise])
    } finally {
      signal?.removeEventListener('abort', withdraw)
      build.callers.delete(progress)
      if (build.callers.size === 0) build.ending.abort(signal?.reason)
    }
  }

  #begin(name: ImageName): Build {
    const ending = new AbortController()
    const callers = new Set<Progress>()
    const progress: Progress = (fraction, message) => {
      for (const tell of callers) tell(fraction, message)
    }
    const result = this.#images
      .build(name, { signal: ending.signal, progress })
      .then(toAgentImage)
      .finally(() => this.#builds.delete(name))
    result.catch(() => {})
    const build = { result, ending, callers }
    this.#builds.set(name, build)
    return build
  }
}

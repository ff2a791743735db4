import type { Bytes, EpochMillis } from '@typevisor/base'
import type { DomainBoot, ImageName } from '@typevisor/model'

/** An image as it lies on a host: immutable once there; `digest` names its content. */
export interface Image {
  readonly name: ImageName
  readonly title: string
  readonly digest: string
  readonly builtAt: EpochMillis
  readonly boot: DomainBoot
  readonly rootDisk: {
    readonly path: string
    readonly format: 'qcow2' | 'raw'
    readonly virtualBytes: Bytes
    readonly fileBytes: Bytes
  }
  readonly minimum: { readonly memoryBytes: Bytes; readonly diskBytes: Bytes }
  readonly defaultUser: string
  /** Kernel and package versions that went in. */
  readonly contents: Readonly<Record<string, string>>
}

export interface ImageStore {
  list(): Promise<readonly Image[]>
  get(name: ImageName): Promise<Image | null>
  /** Builds (or rebuilds) by its recipe; `progress` in [0, 1]. The old one stays in use by its clones. @throws Fault `not_found` for an unknown recipe. */
  build(
    name: ImageName,
    options?: { signal?: AbortSignal | undefined; progress?: (fraction: number, message: string) => void },
  ): Promise<Image>
  remove(name: ImageName): Promise<void>
}

import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock, IdSource, Log, Rng } from '@typevisor/base'
import type { ImageStore } from '@typevisor/image'
import type { VolumeStore } from '@typevisor/storage'
import type { DomainDriver, SaveFolder } from '@typevisor/toolstack'

export interface HostOptions {
  readonly name: string
  readonly dataDir: string
  readonly driver: 'qemu' | 'sim'
  readonly version: string
  readonly clock: Clock
  readonly rng: Rng
  readonly ids: IdSource
  readonly log: Log
  /** sim only. */
  readonly sim?: { readonly bootMs: number; readonly delayMsMax: number }
}

/** What the toolstack is put together from; each kind of driver brings its own. */
export interface HostParts {
  readonly driver: DomainDriver
  readonly volumes: VolumeStore
  readonly images: ImageStore
  readonly saves: SaveFolder
}

export const saveFolder = (folder: string): SaveFolder => ({
  pathOf: (id) => join(folder, `${id}.save`),
  remove: (path) => rm(path, { force: true }),
})

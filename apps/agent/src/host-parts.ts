import { lstat, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { isMediumName } from '@typevisor/model'
import type { Clock, IdSource, Log, Rng } from '@typevisor/base'
import type { ImageStore } from '@typevisor/image'
import type { VolumeStore } from '@typevisor/storage'
import type { DomainDriver, MediaFolder, SaveFolder, Toolstack } from '@typevisor/toolstack'
import type { VolumeServerStatus } from '@typevisor/api/agent-wire'

/** Of hosts of one machine. */
export const MIGRATION_ADDRESS = '127.0.0.1'

export interface HostOptions {
  readonly name: string
  readonly dataDir: string
  readonly driver: 'qemu' | 'sim'
  readonly version: string
  readonly clock: Clock
  readonly rng: Rng
  readonly ids: IdSource
  readonly log: Log
  /** Where other hosts reach this one for domains that move: an IP address; absent: 127.0.0.1, for hosts of one machine. */
  readonly migrationAddress?: string | undefined
  /** Of the host's boot, to see whether it was started anew; absent: as the kernel says. */
  readonly bootId?: string | undefined
  /** sim only. */
  readonly sim?: { readonly bootMs: number; readonly delayMsMax: number }
}

/** What the toolstack is put together from; each kind of driver brings its own. */
export interface HostParts {
  readonly driver: DomainDriver
  readonly volumes: VolumeStore
  readonly images: ImageStore
  readonly saves: SaveFolder
  readonly media: MediaFolder
  /** Told once, when the toolstack is open: what it holds is kept, and what happens to the parts is noted in it. */
  readonly heldBy?: (toolstack: Pick<Toolstack, 'holdsFiles' | 'notePart' | 'newestOf'>) => void
  readonly volumeServer?: () => VolumeServerStatus
  /** Before the toolstack's end: the last that is noted in it. */
  readonly lastNotes?: () => Promise<void>
  /** Behind the toolstack's end. */
  readonly close?: () => Promise<void>
}

/** Plain files by name: no path leads out of the folder, and no link. */
export const mediaFolder = (folder: string): MediaFolder => {
  const find: MediaFolder['find'] = async (name) => {
    const found = isMediumName(name) ? await lstat(join(folder, name)).catch(() => null) : null
    return found?.isFile() && found.size > 0 ? { path: join(folder, name), sizeBytes: found.size } : null
  }
  return {
    find,
    async list() {
      const names = (await readdir(folder)).sort()
      const found = await Promise.all(names.map(find))
      return names.filter((_, index) => found[index])
    },
  }
}

/** A host whose domains are in memory: for tests of everything above, and for trying a thousand instances on a laptop. They end with the process. */
import { Fault, type Clock, type Rng } from '@typevisor/base'
import { SimHypervisor, createSimDriver } from '@typevisor/driver-sim'
import { SIM_IMAGE, type ImageStore } from '@typevisor/image'
import { memoryVolumeStore } from '@typevisor/storage'
import type { DomainDriver, MediaFolder } from '@typevisor/toolstack'
import type { HostOptions, HostParts } from './host-parts.ts'

/** What its CD drives take: anything that is called an image. */
const SIM_MEDIA: MediaFolder = {
  find: async (name) => (name.endsWith('.iso') ? { path: `/sim/media/${name}`, sizeBytes: 1024 * 1024 } : null),
  list: async () => ['sim.iso'],
}

export const simImages: ImageStore = {
  list: async () => [SIM_IMAGE],
  get: async (name) => (name === SIM_IMAGE.name ? SIM_IMAGE : null),
  build: async (name) => {
    if (name !== SIM_IMAGE.name) throw new Fault('not_found', `image ${name}: there is no recipe of this name`)
    return SIM_IMAGE
  },
  remove: async () => {},
}

export function simDriver(
  clock: Clock,
  rng: Rng,
  options: { bootMs: number; delayMsMax: number },
): { driver: DomainDriver; hypervisor: SimHypervisor } {
  const hypervisor = new SimHypervisor(clock, { bootMs: options.bootMs })
  return { hypervisor, driver: createSimDriver({ hypervisor, clock, rng, delayMsMax: options.delayMsMax }) }
}

export function simParts(options: HostOptions): HostParts {
  const { clock, rng } = options
  const { driver, hypervisor } = simDriver(clock, rng, options.sim ?? { bootMs: 0, delayMsMax: 0 })
  return {
    driver,
    images: simImages,
    volumes: memoryVolumeStore(),
    saves: hypervisor.saveFolder,
    media: SIM_MEDIA,
  }
}

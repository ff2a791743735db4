/** What the conformance suite needs of a host in memory. */
import type { Clock, Rng } from '@typevisor/base'
import type { DomainId, VolumeId } from '@typevisor/model'
import type { DriverWorld } from '@typevisor/toolstack'
import { createSimDriver } from './driver.ts'
import { SimHypervisor } from './hypervisor.ts'

const BOOT_MS = 100

/** `pass`: lets so many milliseconds of the clock go by. */
export function simConformanceWorld(clock: Clock, rng: Rng, pass: (ms: number) => Promise<void>): DriverWorld {
  const hypervisor = new SimHypervisor(clock, { bootMs: BOOT_MS })
  const need = (id: DomainId) => hypervisor.need(id)
  const guest: DriverWorld['guest'] = async (id) => {
    const volume = `${id}.root` as VolumeId
    return {
      boot: { kind: 'disk' },
      volumes: { [volume]: { kind: 'file', path: `/sim/${volume}`, format: 'raw' } },
      disks: [{ name: 'root', volume, readOnly: false }],
    }
  }
  return {
    open: async () => createSimDriver({ hypervisor, clock, rng }),
    guest,
    fullDisk: {
      guest,
      fill: async (_driver, id) => hypervisor.guest.fillDisk(id),
      makeRoom: async (id) => hypervisor.guest.makeRoom(id),
    },
    savePath: (id) => `/sim/${id}.save`,
    damage: async (path) => {
      const save = hypervisor.saves.get(path)
      if (save) save.whole = false
    },
    // They have no bytes.
    keepDisks: async () => async () => {},
    untilBooted: async (_driver, id) => {
      while (!hypervisor.booted(need(id))) await pass(100)
    },
    killProcess: async (id) => hypervisor.guest.kill(id),
    guestPowersOff: async (_driver, id) => hypervisor.guest.powerOff(id),
    counter: ['/bin/count'],
    echo: ['/bin/echo'],
    volume: async (id, name) => {
      const volume = `${id}.${name}` as VolumeId
      return { volume, source: { kind: 'file', path: `/sim/${volume}`, format: 'raw' } }
    },
    eyes: { cannot: 'domains in memory have no kernel that sees devices' },
    processors: ['/bin/nproc'],
    memory: ['/bin/memory'],
    pause: pass,
    close: async () => {},
  }
}

import { seededRng, virtualClock } from '@typevisor/sim'
import type { DomainId, VolumeId } from '@typevisor/model'
import { domainDriverConformance, type DriverWorld } from '@typevisor/toolstack/testing'
import { createSimDriver } from './driver.ts'
import { SimHypervisor } from './hypervisor.ts'

domainDriverConformance('sim', async () => {
  const clock = virtualClock()
  const hypervisor = new SimHypervisor(clock, { bootMs: 1000 })
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
    open: async () => createSimDriver({ hypervisor, clock, rng: seededRng(1) }),
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
      while (!hypervisor.booted(need(id))) await clock.advance(100)
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
    pause: (ms) => clock.advance(ms),
    close: async () => {},
  }
})

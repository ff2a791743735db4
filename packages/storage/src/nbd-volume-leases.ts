/**
 * Leases of a volume server's volumes, for one holder. The store keeps them, so that they outlive whoever holds them and every server: what
 * a holder has is asked, never remembered.
 */
import { Fault } from '@typevisor/base'
import { parseVolumeId, type VolumeId } from '@typevisor/model'
import type { ServerCaller } from './node-volume-server.ts'
import type { VolumeLeases } from './ports.ts'
import { exportNameOf } from './served/lease-commands.ts'

/** `holder`: a UUID in small letters. */
export function nbdVolumeLeases(call: ServerCaller, holder: string): VolumeLeases {
  const heldIn = async (volume: string): Promise<number | null> => heldEpoch(call, holder, parseVolumeId(volume))
  const need = async (volume: VolumeId, what: string): Promise<number> => {
    const epoch = await heldIn(volume)
    if (epoch === null) throw new Fault('conflict', `${what} ${volume}: its lease is not held by ${holder}`)
    return epoch
  }
  return {
    holder,
    held: heldIn,
    async take(volume) {
      const found = await call('get', { name: parseVolumeId(volume) })
      if (!found) throw new Fault('not_found', `lease ${volume}: there is no such volume`)
      const { holder: now, epoch } = found.lease
      if (now === holder) return epoch
      if (now !== null)
        throw new Fault('conflict', `lease ${volume}: leased by ${now} in epoch ${epoch}; want it released, or handed over`)
      return (await call('acquireLease', { name: volume, holder })).epoch
    },
    async release(volume) {
      const epoch = await heldIn(volume)
      if (epoch !== null) await call('releaseLease', { name: volume, epoch })
    },
    async offer(volume) {
      const { nextEpoch } = await call('offerLease', { name: volume, epoch: await need(volume, 'offer the lease of') })
      return nextEpoch
    },
    async handOver(volume, to, nextEpoch) {
      const lease = (await call('get', { name: parseVolumeId(volume) }))?.lease
      if (lease?.holder === to && lease.epoch === nextEpoch) return
      const epoch = await need(volume, 'hand over the lease of')
      await call('handOverLease', { name: volume, epoch, holder: to, nextEpoch })
    },
  }
}

async function heldEpoch(call: ServerCaller, holder: string, volume: string): Promise<number | null> {
  const lease = (await call('get', { name: volume }))?.lease
  return lease?.holder === holder ? lease.epoch : null
}

/** The export under which `holder` opens a volume: by its epoch where it has the lease, else as anybody. */
export async function exportNameFor(call: ServerCaller, holder: string, volume: string): Promise<string> {
  const epoch = await heldEpoch(call, holder, volume)
  return epoch === null ? volume : exportNameOf(volume, epoch)
}

/** Leases as commands: a holder is a UUID, and what a change makes of a lease is told with the export's name under it. */
import { Fault } from '@typevisor/base'
import { acquireLease, handOverLease, offerLease, releaseLease, type VolumeLease } from '../store/lease.ts'
import { uuidOf, type Store } from '../store/store.ts'

export interface LeaseReport {
  readonly name: string
  /** In force. */
  readonly epoch: number
  /** null: nobody; all who open the volume may write. */
  readonly holder: string | null
  /** `NAME:EPOCH`, under which the holder opens it; of `offerLease` that of the next one. `NAME` where nobody holds it. */
  readonly exportName: string
}

export interface LeaseCommands {
  /** `epoch`: the one that is ended by it, where another holds the lease. */
  acquireLease: { args: { name: string; holder: string; epoch?: number }; answer: LeaseReport }
  /** Gives out the next epoch, in which the volume can be opened and read before it is handed over. */
  offerLease: { args: { name: string; epoch: number }; answer: LeaseReport & { readonly nextEpoch: number } }
  /** `nextEpoch`: the one that was given out; without it a new one. */
  handOverLease: { args: { name: string; epoch: number; holder: string; nextEpoch?: number }; answer: LeaseReport }
  releaseLease: { args: { name: string; epoch: number }; answer: LeaseReport }
}

type Table<C extends Record<string, { args: unknown; answer: unknown }>> = {
  [K in keyof C]: (args: C[K]['args']) => Promise<C[K]['answer']>
}

export function leaseCommands(store: Store): Table<{ [K in keyof LeaseCommands]: LeaseCommands[K] }> {
  return {
    acquireLease: async ({ name, holder, epoch }) =>
      report(name, await store.changeLease(name, acquireLease(holderOf(holder), epoch))),
    offerLease: async ({ name, epoch }) => {
      const lease = await store.changeLease(name, offerLease(epoch))
      const nextEpoch = lease.offeredEpoch
      return { ...report(name, lease), nextEpoch, exportName: exportNameOf(name, nextEpoch) }
    },
    handOverLease: async ({ name, epoch, holder, nextEpoch }) =>
      report(name, await store.changeLease(name, handOverLease(epoch, holderOf(holder), nextEpoch))),
    releaseLease: async ({ name, epoch }) => report(name, await store.changeLease(name, releaseLease(epoch))),
  }
}

/** Under which the holder of an epoch opens a volume. */
export const exportNameOf = (name: string, epoch: number): string => `${name}:${epoch}`

const report = (name: string, { epoch, holder }: VolumeLease): LeaseReport => ({
  name,
  epoch,
  holder: holder && uuidOf(holder),
  exportName: holder === null ? name : exportNameOf(name, epoch),
})

/** `NAME:EPOCH`; names of volumes have no colon. null: it is a plain name. */
export function leasedNameOf(exportName: string): { name: string; epoch: number } | null {
  const match = /^([^@:]+):(\d{1,10})$/.exec(exportName)
  return match && { name: match[1] as string, epoch: Number(match[2]) } // both groups are there where it matches
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const NOBODY = '00000000-0000-0000-0000-000000000000'

/** @throws Fault `invalid`. */
function holderOf(text: string): Uint8Array {
  if (!UUID.test(text) || text === NOBODY)
    throw new Fault('invalid', `holder: got ${JSON.stringify(text)}, want a UUID in small letters`)
  return Uint8Array.from(text.replaceAll('-', '').match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))
}

/** `volume lease`: who may write a volume. */
import { Fault } from '@typevisor/base'
import type { CommandCaller, LeaseReport } from '@typevisor/storage'
import { oneOf, type FlagTable } from '../flags.ts'
import type { VolumeVerb } from './volume-verb.ts'

export const LEASE_FLAGS = {
  holder: { text: 'lease: who will hold it', value: 'UUID' },
  epoch: { text: 'lease: the epoch that is ended, as whoever changes it knows it', value: 'N' },
  next: { text: 'lease: the epoch that was offered for a hand-over', value: 'N' },
} as const satisfies FlagTable

interface LeaseFlags {
  readonly holder?: string | undefined
  readonly epoch?: string | undefined
  readonly next?: string | undefined
}

const ACTIONS = ['show', 'acquire', 'offer', 'hand-over', 'release'] as const
type Action = (typeof ACTIONS)[number]

function holderOf(text: string | undefined): string {
  if (text === undefined) throw new Fault('invalid', '--holder: got nothing, want a UUID')
  return text
}

function epochOf(flag: string, text: string | undefined): number {
  if (text === undefined) throw new Fault('invalid', `${flag}: got nothing, want a whole number`)
  if (!/^\d{1,10}$/.test(text)) throw new Fault('invalid', `${flag}: got ${JSON.stringify(text)}, want a whole number`)
  return Number(text)
}

async function shown(call: CommandCaller, name: string): Promise<LeaseReport> {
  const found = (await call('list', {})).find((each) => each.name === name && each.kind === 'volume')
  if (!found) throw new Fault('not_found', `volume ${JSON.stringify(name)}: there is none`)
  const { epoch, holder } = found.lease
  return { name, epoch, holder, exportName: holder === null ? name : `${name}:${epoch}` }
}

const CARRY_OUT: Readonly<Record<Action, (call: CommandCaller, name: string, flags: LeaseFlags) => Promise<LeaseReport>>> = {
  show: (call, name) => shown(call, name),
  acquire: (call, name, { holder, epoch }) =>
    call('acquireLease', {
      name,
      holder: holderOf(holder),
      ...(epoch === undefined ? {} : { epoch: epochOf('--epoch', epoch) }),
    }),
  offer: (call, name, { epoch }) => call('offerLease', { name, epoch: epochOf('--epoch', epoch) }),
  'hand-over': (call, name, { epoch, holder, next }) =>
    call('handOverLease', {
      name,
      epoch: epochOf('--epoch', epoch),
      holder: holderOf(holder),
      ...(next === undefined ? {} : { nextEpoch: epochOf('--next', next) }),
    }),
  release: (call, name, { epoch }) => call('releaseLease', { name, epoch: epochOf('--epoch', epoch) }),
}

function leaseText(action: Action, { name, epoch, holder, exportName }: LeaseReport): string {
  const whose = holder === null ? `${name}: nobody's, in epoch ${epoch}` : `${name}: leased by ${holder} in epoch ${epoch}`
  return `${whose}; ${action === 'offer' ? 'the next one opens' : 'open'} ${exportName} to write`
}

export const LEASE_VERBS: Readonly<Record<string, VolumeVerb>> = {
  lease: {
    usage: `typevisor volume lease ${ACTIONS.join('|')} NAME [--holder UUID] [--epoch N] [--next N] --dir DIR`,
    words: [2, 2],
    flags: Object.keys(LEASE_FLAGS),
    async run(call, [word = '', name = ''], flags, terminal, json) {
      const action = oneOf('volume lease', word, ACTIONS)
      const report = await CARRY_OUT[action](call, name, flags)
      terminal.out(json ? JSON.stringify(report) : leaseText(action, report))
    },
  },
}

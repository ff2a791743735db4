/**
 * The guests of a whole cloud, and how they are stopped from the command line: each is asked to power off, and its power is cut when it
 * does not; each by an operation of the API, so on whichever host it is. A host that is away keeps its own.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { toFault } from '@typevisor/base'
import type { Reply } from '@typevisor/api'
import type { Client } from '@typevisor/api/client'

type Instance = Reply<'instance.get'>
export interface Guest {
  readonly id: string
  readonly name: string
  readonly host: string
  readonly hostConnected: boolean
  /** In memory: it ends with the process of its agent. */
  readonly inMemory: boolean
}
export interface StoppedGuests {
  readonly stopped: readonly Guest[]
  readonly left: readonly { readonly guest: Guest; readonly why: string }[]
}

const PAGE = 500
const AT_ONCE = 8
const PAUSE_MS = 500
/** The guest has 60 s to power off when asked; then its power is cut. */
const LIMIT_MS = 150_000
const LIVE: readonly string[] = ['running', 'paused', 'crashed'] satisfies Instance['state']['kind'][]

export const guestText = ({ name, host }: Guest): string => `${name} (${host})`
export const count = (guests: readonly Guest[], verb: readonly [string, string] = ['', '']): string => {
  const one = guests.length === 1
  return `${guests.length} ${one ? 'guest' : 'guests'}${verb[one ? 0 : 1]}`
}

/** Every instance with a machine behind it. */
export async function liveGuests(client: Client): Promise<Guest[]> {
  const { items: hosts } = await client.call('host.list')
  const inMemory = new Set(hosts.filter((host) => host.driver === 'sim').map((host) => host.name))
  const found: Guest[] = []
  for (let cursor: string | null | undefined; cursor !== null;) {
    const query = cursor === undefined ? { limit: PAGE } : { limit: PAGE, cursor }
    const page: Reply<'instance.list'> = await client.call('instance.list', { query })
    for (const { id, name, host, hostConnected, state } of page.items) {
      if (host !== null && LIVE.includes(state.kind)) found.push({ id, name, host, hostConnected, inMemory: inMemory.has(host) })
    }
    cursor = page.nextCursor
  }
  return found
}

/** Stops them, a few at once; `onOff` hears of each that is off. */
export async function stopGuests(
  client: Client,
  guests: readonly Guest[],
  onOff: (guest: Guest) => void,
): Promise<StoppedGuests> {
  const stopped: Guest[] = []
  const left: { guest: Guest; why: string }[] = []
  const waiting = [...guests]
  const worker = async (): Promise<void> => {
    for (let guest = waiting.shift(); guest; guest = waiting.shift()) {
      const why = guest.hostConnected ? await stopOne(client, guest) : `host ${guest.host} is not connected`
      if (why !== null) left.push({ guest, why })
      else {
        stopped.push(guest)
        onOff(guest)
      }
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  return { stopped, left }
}

/** null: it is off. Else why not. */
async function stopOne(client: Client, guest: Guest): Promise<string | null> {
  const params = { instance: guest.id }
  const end = performance.now() + LIMIT_MS
  let asked = false
  let why = 'it did not stop in time'
  while (performance.now() < end) {
    try {
      const { state, operation, hostConnected } = await client.call('instance.get', { params })
      if (!LIVE.includes(state.kind)) return null
      if (!hostConnected) return `host ${guest.host} is not connected`
      // Another operation holds it: what that leaves is looked at then.
      if (operation) await ended(client, operation.id)
      else {
        const verb = state.kind === 'running' && !asked ? 'instance.shutdown' : 'instance.poweroff'
        asked = true
        const { id } = (await client.call(verb, { params })).operation
        why = (await ended(client, id))?.message ?? why
      }
    } catch (error) {
      const fault = toFault(error)
      if (fault.code === 'not_found') return null
      // Somebody else was quicker; the next look says what it is now.
      if (fault.code !== 'busy' && fault.code !== 'conflict' && fault.code !== 'unavailable') return fault.message
      why = fault.message
      await sleep(PAUSE_MS)
    }
  }
  return why
}

async function ended(client: Client, operation: string): Promise<Reply<'operation.get'>['fault']> {
  const reply = await client.call('operation.get', { params: { operation }, query: { wait: 10 } })
  return reply.fault
}

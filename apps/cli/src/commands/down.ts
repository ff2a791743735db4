/**
 * Stops the platform that runs on the data directory, by its API; waits until it is gone. Says by name which guests were stopped and which
 * go on: with `--guests` those of every connected host are stopped first, by the verbs that anybody uses.
 */
import { Fault, toFault } from '@typevisor/base'
import type { Client } from '@typevisor/api/client'
import { connection } from '../connect.ts'
import { EXIT } from '../exit-codes.ts'
import { parseFlags, type FlagTable } from '../flags.ts'
import type { Command, Terminal } from '../terminal.ts'
import { clientOf } from '../verb.ts'
import { count, guestText, liveGuests, stopGuests, type Guest, type StoppedGuests } from './guests.ts'

const LIMIT_MS = 120_000
const FLAGS = {
  guests: { text: 'stop the guests first, on every host that is connected' },
  yes: { text: 'do not ask, where guests of more than one host would be stopped' },
} as const satisfies FlagTable

export const down: Command = {
  summary: 'Stop the platform; guests go on (--guests stops them too)',
  json: true,
  usage: 'typevisor down [--guests] [--yes]',
  flags: FLAGS,
  async run(words, terminal, json) {
    const { guests = false, yes = false } = parseFlags('down', FLAGS, words)
    const client = clientOf(terminal)
    const { url } = connection(terminal.env) // the file goes with the platform
    const { pid } = await client.call('platform.get')
    const live = await liveGuests(client)
    const { stopped, left } = guests
      ? await stopAll(client, live, yes, terminal)
      : { stopped: [], left: live.map((guest) => ({ guest, why: 'it was not asked to stop' })) }
    await client.call('platform.stop', { body: { guests } })
    await untilGone(pid, url)
    if (json) {
      const told = ({ name, host }: Guest) => ({ name, host })
      const goOn = left.map(({ guest, why }) => ({ ...told(guest), why }))
      terminal.out(JSON.stringify({ stopped: true, guests: stopped.map(told), goOn }))
    } else terminal.out(endWords(guests, stopped, left))
    return guests && left.length > 0 ? EXIT.failed : EXIT.ok
  },
}

/** @throws Fault before anything is stopped: for who may not stop the platform, and where it is not confirmed. */
async function stopAll(client: Client, live: readonly Guest[], yes: boolean, terminal: Terminal): Promise<StoppedGuests> {
  const { account } = await client.call('session.get')
  if (account.role !== 'admin') throw new Fault('forbidden', `down: ${account.name} is ${account.role}, want an admin`)
  const reachable = live.filter((guest) => guest.hostConnected)
  const hosts = [...new Set(reachable.map((guest) => guest.host))]
  const names = reachable.map(guestText).join(', ')
  if (hosts.length > 1 && !yes) {
    const loses = `The guests of ${hosts.length} hosts are stopped: ${names}.`
    const { ask } = await import('../confirm.ts')
    await ask('down --guests', loses, 'yes', terminal)
  }
  if (reachable.length > 0) terminal.say(`typevisor: stopping ${count(reachable)}: ${names}`)
  return stopGuests(client, live, (guest) => terminal.say(`typevisor: ${guestText(guest)} is off`))
}

const memory = ({ inMemory }: Guest): string => (inMemory ? ', in memory while its agent runs' : '')

function endWords(guests: boolean, stopped: readonly Guest[], left: StoppedGuests['left']): string {
  const lines = [stopped.length > 0 ? `stopped, with ${count(stopped)}: ${stopped.map(guestText).join(', ')}` : 'stopped']
  if (left.length > 0) {
    const going = count(
      left.map(({ guest }) => guest),
      [' goes on', ' go on'],
    )
    const reason = (why: string): string => (guests ? `: ${why}` : '')
    const named = left.map(({ guest, why }) => `${guestText(guest)}${memory(guest)}${reason(why)}`).join(', ')
    lines.push(`${going}: ${named}`)
  } else if (stopped.length === 0) lines.push('no guest was running')
  return lines.join('; ')
}

async function untilGone(pid: number, url: string): Promise<void> {
  const end = performance.now() + LIMIT_MS
  while (alive(pid)) {
    if (performance.now() > end)
      throw new Fault('timeout', `the platform at ${url} (process ${pid}) did not stop in ${LIMIT_MS / 1000} s`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** Only of a process on this machine; elsewhere its own answer has to do. */
function alive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return toFault(error).cause instanceof Error && (toFault(error).cause as NodeJS.ErrnoException).code === 'EPERM'
  }
}

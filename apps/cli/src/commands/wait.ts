/** Waits for a guest: until its console says that userspace is up, or until its agent answers. */
import { Fault, toFault } from '@typevisor/base'
import type { Client } from '@typevisor/api/client'
import type { Terminal } from '../terminal.ts'
import { Progress } from '../progress.ts'

const LIMIT_MS = 180_000
/** The line of our own images, and what any getty asks. */
const UP = /typevisor: ready|sim: ready|login: ?$/m

export async function waitForGuest(
  client: Client,
  instance: string,
  what: 'console' | 'agent',
  terminal: Terminal,
): Promise<void> {
  const end = performance.now() + LIMIT_MS
  const progress = new Progress(`waiting for the ${what}`, terminal)
  let from = 0
  let seen = ''
  while (performance.now() < end) {
    if (what === 'console') {
      const slice = await client.call('instance.log', { params: { instance }, query: { from } })
      from = slice.endOffset
      seen = (seen + Buffer.from(slice.contentBase64, 'base64').toString()).slice(-4096)
      if (UP.test(seen)) return progress.clear()
    } else if (await answers(client, instance)) return progress.clear()
    progress.show('booting', null)
    const { state } = await client.call('instance.get', { params: { instance } })
    if (state.kind !== 'running')
      throw new Fault('failed', `the instance is ${state.kind} (${state.cause})${state.detail ? `: ${state.detail}` : ''}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  throw new Fault('timeout', `the guest's ${what} did not answer in ${LIMIT_MS / 1000} s; it goes on booting`)
}

async function answers(client: Client, instance: string): Promise<boolean> {
  try {
    await client.call('instance.addresses', { params: { instance } })
    return true
  } catch (error) {
    const { code } = toFault(error)
    if (code === 'unavailable' || code === 'timeout' || code === 'busy') return false
    throw error
  }
}

/** Waits for a guest: until its console says that userspace is up, or until its agent answers. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, toFault } from '@typevisor/base'
import type { Client } from '@typevisor/api/client'
import { Progress } from '../progress.ts'

const LIMIT_MS = 180_000
/** The line of our own images, and what any getty asks. */
const UP = /typevisor: ready|sim: ready|login: ?$/m

export async function waitForGuest(
  client: Client,
  instance: string,
  what: 'console' | 'agent',
  signal?: AbortSignal,
): Promise<void> {
  const end = performance.now() + LIMIT_MS
  using progress = new Progress(`waiting for the ${what}`)
  let from = 0
  let seen = ''
  while (performance.now() < end) {
    if (what === 'console') {
      const slice = await client.call('instance.log', { params: { instance }, query: { from } }, { signal })
      from = slice.endOffset
      seen = (seen + Buffer.from(slice.contentBase64, 'base64').toString()).slice(-4096)
      if (UP.test(seen)) return
    } else if (await answers(client, instance, signal)) return
    progress.show('booting', null)
    const { state } = await client.call('instance.get', { params: { instance } }, { signal })
    if (state.kind !== 'running')
      throw new Fault('failed', `the instance is ${state.kind} (${state.cause})${state.detail ? `: ${state.detail}` : ''}`)
    await sleep(100, undefined, { signal })
  }
  throw new Fault('timeout', `the guest's ${what} did not answer in ${LIMIT_MS / 1000} s; it goes on booting`)
}

async function answers(client: Client, instance: string, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    await client.call('instance.addresses', { params: { instance } }, { signal })
    return true
  } catch (error) {
    const { code } = toFault(error)
    if (code === 'unavailable' || code === 'timeout' || code === 'busy') return false
    throw error
  }
}

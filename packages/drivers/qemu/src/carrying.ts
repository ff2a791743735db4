/**
 * The memory of a domain that comes by post-copy, carried to its QEMU by a process of its own.
 *
 *   source --memory--> this process --migration.sock--> QEMU, `-incoming`         a stream that breaks: `migrate-recover`, out of band, and again
 *                           +-------carrier.sock------> its second monitor
 *
 * While it lacks a page QEMU's main loop may stand still, when a device reads that page, and then takes up no monitor that connects anew: so
 * this one is negotiated before anything comes, and what it says is said out of band. An agent that ends has nothing to do with it.
 *
 * It is over when all has come, and when QEMU ends.
 */
import { Fault, millis, toFault, withDeadline, type Clock, type Log } from '@typevisor/base'
import { joinStreams, type MigrationListener, type MigrationStream } from '@typevisor/toolstack'
import type { DomainPaths } from './layout.ts'
import type { HostSockets } from './ports.ts'
import { QmpClient } from './qmp.ts'
import { textOf } from './read-json.ts'

/** QEMU waits for a second stream only when it has seen that the first one is broken, which may be a moment behind whoever sends it. */
const SEEN_BROKEN_LIMIT_MS = 10_000
const RECOVERY_POLL = millis(20)
const LAST_WORD_LIMIT = millis(10_000)

export interface Carrying {
  readonly paths: Pick<DomainPaths, 'carrier' | 'migration'>
  readonly sockets: HostSockets
  readonly clock: Clock
  readonly log: Log
  listen(take: (channel: string, stream: MigrationStream) => void): Promise<MigrationListener>
}

/** @returns where it listens; `done` resolves when it is over. */
export async function carryMemory(
  carrying: Carrying,
): Promise<{ readonly listener: MigrationListener; readonly done: Promise<void> }> {
  const { paths, sockets, clock, log } = carrying
  const monitor = await QmpClient.open(await sockets.connect(paths.carrier), { clock, oob: true })
  let hasBegun = false
  let joined: Promise<void> = Promise.resolve()
  const take = async (channel: string, stream: MigrationStream): Promise<void> => {
    try {
      if (channel !== 'memory') throw new Fault('not_found', `carry memory: got channel ${JSON.stringify(channel)}, want memory`)
      if (hasBegun) await recoverMemory((command, args) => monitor.execute(command, args, { oob: true }), paths.migration, clock)
      hasBegun = true
      joined = joinStreams(stream, await sockets.connect(paths.migration))
      await joined
    } catch (error) {
      log.warn('migration.not_carried', { channel, error: toFault(error).message })
      stream.close()
    }
  }
  const listener = await carrying.listen((channel, stream) => void take(channel, stream))
  const whole = (async () => {
    for await (const { name, content } of monitor.events)
      if (name === 'MIGRATION' && ['completed', 'failed'].includes(textOf(content['status']) ?? '')) return
  })()
  const done = Promise.race([whole, monitor.closed]).then(async () => {
    // The source hears by the same stream that all has come.
    await withDeadline({ limit: LAST_WORD_LIMIT, clock, what: 'carry memory: end' }, () => joined).catch(() => {})
    await listener.close()
    monitor.close()
  })
  return { listener, done }
}

/** Has QEMU take a second stream. @throws Fault `conflict` while the first one is whole; whatever keeps it from answering. */
export async function recoverMemory(
  execute: (command: string, args: { readonly uri: string }) => Promise<unknown>,
  path: string,
  clock: Clock,
  signal?: AbortSignal,
): Promise<void> {
  for (const end = clock.monotonic() + SEEN_BROKEN_LIMIT_MS; ; await clock.sleep(RECOVERY_POLL, { signal })) {
    try {
      return void (await execute('migrate-recover', { uri: `unix:${path}` }))
    } catch (error) {
      if (toFault(error).code !== 'failed') throw error
      if (clock.monotonic() > end)
        throw new Fault('conflict', `its memory comes by another stream, which is whole: ${toFault(error).message}`, {
          cause: error,
        })
    }
  }
}

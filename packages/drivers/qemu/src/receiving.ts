/**
 * A domain that comes from another host: QEMU started with `-incoming defer`, its disks exported by its own NBD server on a unix socket until
 * they are whole. It runs nothing before `cont`, which is not given here.
 *
 *   nbd-server-start, exports --> migrate-incoming --> disks, memory --> nbd-server-stop (disksDone) --> completed: paused, disks its own
 *
 * While it waits, the record says `incoming`. A caller that is killed before all has come has closed the streams, of which QEMU dies;
 * `adoption.ts` tells what had come whole by then from what had not.
 */
import { Fault, millis, type Clock } from '@typevisor/base'
import type { DomainHardware } from '@typevisor/model'
import type { MigrationTarget, ReceiveOptions } from '@typevisor/toolstack'
import type { Machine } from './machine.ts'
import { capabilitiesOf, movedDisks, untilFound } from './migrating.ts'
import type { QemuHost } from './ports.ts'
import type { QmpClient } from './qmp.ts'
import type { DomainPaths } from './layout.ts'
import { isOver, migrationStatus } from './saving.ts'

/** Behind the event that all has come QEMU says `inmigrate` for a moment longer, in which the guest stands still. */
const LOAD_POLL = millis(2)

/** Has QEMU wait on its sockets. */
export async function beginReceiving(
  monitor: Pick<QmpClient, 'execute'>,
  paths: DomainPaths,
  hardware: DomainHardware,
  options: ReceiveOptions,
  signal: AbortSignal,
): Promise<void> {
  const { channelCount = 0 } = options
  await monitor.execute('migrate-set-capabilities', { capabilities: capabilitiesOf(options, false) }, { signal })
  if (channelCount > 0) await monitor.execute('migrate-set-parameters', { 'multifd-channels': channelCount }, { signal })
  const disks = movedDisks(hardware)
  if (disks.length > 0) {
    await monitor.execute('nbd-server-start', { addr: { type: 'unix', data: { path: paths.nbd } } }, { signal })
    for (const { id } of disks) {
      const disk = { type: 'nbd', id: `incoming-${id}`, 'node-name': `${id}-format`, name: id, writable: true }
      await monitor.execute('block-export-add', disk, { signal })
    }
  }
  await monitor.execute('migrate-incoming', { uri: `unix:${paths.migration}` }, { signal })
}

/** null: it goes on; else whether all has come. */
export async function hasLoaded(machine: Machine, signal?: AbortSignal): Promise<boolean | null> {
  const [{ status }, runState] = await Promise.all([
    migrationStatus((...call) => machine.execute(...call), signal),
    machine.runState({ signal }),
  ])
  if (status === 'completed') return runState === 'inmigrate' ? null : true
  return isOver(status) && status !== 'none' ? false : null
}

export function migrationTarget(host: QemuHost, clock: Clock, machine: Machine): MigrationTarget {
  const diskNames = new Set(movedDisks(machine.record.hardware).map(({ device }) => `disk:${device.name}`))
  return {
    async connect(channel) {
      const path = channel === 'memory' ? machine.paths.migration : diskNames.has(channel) ? machine.paths.nbd : null
      if (path === null) {
        const want = ['memory', ...diskNames].join(', ')
        throw new Fault('not_found', `receive ${machine.record.name}: got channel ${JSON.stringify(channel)}, want ${want}`)
      }
      return await host.sockets.connect(path)
    },
    async disksDone({ signal } = {}) {
      if (diskNames.size > 0) await machine.execute('nbd-server-stop', {}, { signal })
    },
    async loaded({ signal = new AbortController().signal } = {}) {
      const isWhole = await untilFound({
        machine,
        clock,
        signal,
        events: ['MIGRATION'],
        look: () => hasLoaded(machine, signal),
        poll: LOAD_POLL,
      })
      if (!isWhole) throw new Fault('failed', `receive ${machine.record.name}: QEMU says that the stream was broken`)
    },
  }
}

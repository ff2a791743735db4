/**
 * A domain that comes from another host: QEMU started with `-incoming defer`, its disks exported by its own NBD server on a unix socket until
 * they are whole. It runs nothing before `cont`, which is not given here.
 *
 *   nbd-server-start, exports --> migrate-incoming --> disks, memory --> nbd-server-stop (disksDone) --> completed: paused, disks its own
 *
 * While it waits, the record says `incoming`. A caller that is killed before all has come has closed the streams, of which QEMU dies;
 * `adoption.ts` tells what had come whole by then from what had not.
 */
import { Fault, millis, toFault, type Clock } from '@typevisor/base'
import type { DomainHardware } from '@typevisor/model'
import type { Capability, MigrationTarget, ReceiveOptions } from '@typevisor/toolstack'
import type { Machine } from './machine.ts'
import { recoverMemory } from './carrying.ts'
import { capabilitiesOf, isFetching, movedDisks, NO_CAPABILITIES, untilFound } from './migrating.ts'
import type { KernelFiles, ProcessUser, QemuHost } from './ports.ts'
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
  await monitor
    .execute('migrate-set-capabilities', { capabilities: capabilitiesOf(options, false) }, { signal })
    .catch((error: unknown) => {
      if (!options.postCopy) throw error
      throw new Fault('unsupported', `post-copy: ${toFault(error).message}`, { cause: error })
    })
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
  if (status === 'completed' || isFetching(status)) return runState === 'inmigrate' ? null : true
  return isOver(status) && status !== 'none' ? false : null
}

const SYS_PTRACE = 19n

/** Post-copy has QEMU answer the page faults of its own guest: userfaultfd(2), "/proc/sys/vm/unprivileged_userfaultfd". */
export async function postCopyCapability(kernel: KernelFiles, user: ProcessUser | null): Promise<Capability> {
  const allowed = await kernel.read('/proc/sys/vm/unprivileged_userfaultfd')
  if (allowed === null) return { can: false, reason: 'this kernel lets no process handle page faults (userfaultfd)' }
  if (allowed.trim() === '1') return { can: true }
  const held = /^CapEff:\s*([0-9a-f]+)$/m.exec((await kernel.read('/proc/self/status')) ?? '')?.[1] ?? '0'
  const mayAsRoot = user === null || user.uid === 0
  if (mayAsRoot && ((BigInt(`0x${held}`) >> SYS_PTRACE) & 1n) === 1n) return { can: true }
  const whom = user === null ? 'its user' : `user ${user.uid}`
  return {
    can: false,
    reason: `QEMU runs as ${whom}, whom the host lets handle no page faults (vm.unprivileged_userfaultfd is 0)`,
  }
}

const statusOf = async (machine: Machine, signal: AbortSignal): Promise<string> =>
  (await migrationStatus((...call) => machine.execute(...call), signal)).status

export function migrationTarget(host: QemuHost, clock: Clock, machine: Machine): MigrationTarget {
  const diskNames = new Set(movedDisks(machine.record.hardware).map(({ device }) => `disk:${device.name}`))
  return {
    async connect(channel, { signal = new AbortController().signal } = {}) {
      const path = channel === 'memory' ? machine.paths.migration : diskNames.has(channel) ? machine.paths.nbd : null
      if (path === null) {
        const want = ['memory', ...diskNames].join(', ')
        throw new Fault('not_found', `receive ${machine.record.name}: got channel ${JSON.stringify(channel)}, want ${want}`)
      }
      // Before it fetches anything it waits already.
      if (channel === 'memory' && isFetching(await statusOf(machine, signal)))
        await recoverMemory((command, args) => machine.execute(command, args, { signal }), path, clock, signal)
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
    async arrived({ signal = new AbortController().signal } = {}) {
      if (machine.record.phase.kind !== 'arriving') return
      const look = async (): Promise<true | null> => ((await statusOf(machine, signal)) === 'completed' ? true : null)
      await untilFound({ machine, clock, signal, events: ['MIGRATION'], look })
      await machine.execute('migrate-set-capabilities', { capabilities: NO_CAPABILITIES }, { signal })
      await machine.setPhase({ kind: 'live' })
    },
  }
}

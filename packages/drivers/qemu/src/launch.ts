/**
 * From a domain to a QEMU process that answers its monitor, or nothing at all.
 *
 *   sweep what a killed caller left --> folders, console log --> record `starting` --> spawn --> record its identity --> monitor
 *                                                                       | any fault or abort
 *                                                                       v
 *                                            SIGKILL, wait for the end, remove the run folder, last words into the Fault
 *
 * Never two QEMUs on one domain: the process is found by its `-pidfile` argument before another is started; QEMU itself locks that file
 * for its life, and its disks.
 */
import { Fault, millis, type Clock, type Millis } from '@typevisor/base'
import { architectureOf } from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import { TARGETS } from './architecture.ts'
import { commandLine, consoleBackend, type StartKind } from './command-line.ts'
import { findChild } from './find-child.ts'
import type { DomainPaths } from './layout.ts'
import { lastWords } from './machine.ts'
import { openFiles } from './open-files.ts'
import type { ProcessIdentity, ProcessUser, QemuHost } from './ports.ts'
import { QmpClient } from './qmp.ts'
import { findRecord, writeRecord, type RunRecord } from './record.ts'
import { findTpms, startTpm } from './tpm.ts'

export interface LaunchContext {
  readonly host: QemuHost
  readonly clock: Clock
  readonly qemuBinary: string
  readonly user: ProcessUser | null
  readonly diskFolders: readonly string[] | null
  /** What guests are given that boot from the network; null: nothing. */
  readonly netbootFolder?: string | null
  readonly accelerator: 'tcg' | 'kvm'
  readonly monitorLimit: Millis
  /** For the first word of QEMU's monitor. */
  readonly startLimit: Millis
}

export interface Launched {
  readonly record: RunRecord & { readonly process: ProcessIdentity }
  readonly monitor: QmpClient
  readonly migrationSocket: string
}

const CONNECT_PAUSE = millis(4)
const EXIT_LIMIT = millis(10_000)

/** Ends a process for certain. @throws Fault `unavailable` when the kernel cannot end it (it waits for a device). */
export async function kill(context: Pick<LaunchContext, 'host' | 'clock'>, process: ProcessIdentity): Promise<void> {
  await context.host.processes.signal(process, 'SIGKILL')
  await waitForExit(context, process, EXIT_LIMIT)
}

/** @throws Fault `unavailable` when it has not ended in `limit`. */
export async function waitForExit(
  context: Pick<LaunchContext, 'host' | 'clock'>,
  process: ProcessIdentity,
  limit: Millis,
): Promise<void> {
  const settled = new AbortController()
  const exited = context.host.processes.waitExit(process, { signal: settled.signal })
  exited.catch(() => {})
  const late = context.clock.sleep(limit, { signal: settled.signal }).then(() => {
    throw new Fault('unavailable', `end process ${process.pid}: it is still there after ${limit} ms`)
  })
  late.catch(() => {})
  try {
    await Promise.race([exited, late])
  } finally {
    settled.abort()
  }
}

/** The QEMUs of this domain. One without a run folder has none, since the folder goes only after its process. */
export async function findQemu({ processes, files }: QemuHost, paths: DomainPaths): Promise<readonly ProcessIdentity[]> {
  if ((await files.size(paths.runFolder)) === null) return []
  const found = await findRecord(files, paths.record)
  const recorded = found.kind === 'record' ? found.record.process : null
  return findChild(processes, { recorded, arguments: ['-pidfile', paths.pid], stderr: paths.stderr })
}

/** Its QEMU has ended; its TPM ends with that by itself, and is seen to. */
export async function endTpm(context: Pick<LaunchContext, 'host' | 'clock'>, paths: DomainPaths): Promise<void> {
  for (const process of await findTpms(context.host, paths)) await kill(context, process)
}

/** Ends every QEMU of this domain, with its TPM, and drops its run folder. */
export async function sweep(context: Pick<LaunchContext, 'host' | 'clock'>, paths: DomainPaths): Promise<void> {
  for (const process of await findQemu(context.host, paths)) await kill(context, process)
  await endTpm(context, paths)
  await context.host.files.remove(paths.runFolder)
}

export async function launch(
  context: LaunchContext,
  domain: DriverDomain,
  paths: DomainPaths,
  start: StartKind,
  signal: AbortSignal,
  /** Told of the process while it makes itself ready; the launch is done when that is, too. Does not fail. */
  spawned: (process: ProcessIdentity) => Promise<void>,
): Promise<Launched> {
  const { host, user } = context
  await sweep(context, paths)
  signal.throwIfAborted()
  await host.files.ensureFolder(paths.dataFolder, { user: null })
  await host.files.ensureFile(paths.consoleLog, { user })
  await host.files.ensureFolder(paths.runFolder, { user })
  try {
    await host.files.makePipe(paths.consoleInput, { user })
    if (user) {
      const reason = await host.files.whyUnreachable(paths.runFolder, user, 'read')
      if (reason) throw new Fault('forbidden', `start ${domain.name}: QEMU's user cannot reach its run folder: ${reason}`)
    }
    return await launchIn(context, domain, paths, start, signal, spawned)
  } catch (error) {
    const words = await lastWords(host, paths.stderr).catch(() => null)
    await sweep(context, paths)
    if (error instanceof EarlyExit)
      throw new Fault('failed', `start ${domain.name}: QEMU ended at once: ${words ?? 'without a word'}`)
    if (error instanceof Fault && words !== null) {
      throw new Fault(error.code, `start ${domain.name}: ${error.message} (QEMU: ${words})`, {
        cause: error,
        details: error.details,
      })
    }
    throw error
  }
}

class EarlyExit extends Error {}

async function launchIn(
  context: LaunchContext,
  domain: DriverDomain,
  paths: DomainPaths,
  start: StartKind,
  signal: AbortSignal,
  spawned: (process: ProcessIdentity) => Promise<void>,
): Promise<Launched> {
  const { host } = context
  const target = TARGETS[architectureOf(domain.spec)]
  await using files = await openFiles(host.files, domain, paths, context.user, context.diskFolders, context.netbootFolder)
  if (target.console === 'board-fixed') await host.files.makeLink(paths.consoleOutput, '/dev/null')
  const argv = commandLine({
    domain,
    paths,
    accelerator: context.accelerator,
    disks: files.disks,
    boot: files.boot,
    ...(files.firmware ? { firmware: files.firmware } : {}),
    ...(files.netboot ? { netboot: files.netboot } : {}),
    consoleLog: files.consoleLog,
    start,
    inheritedCount: files.setCount,
  })
  const starting: RunRecord = {
    version: 1,
    id: domain.id,
    name: domain.name,
    hardware: domain.hardware,
    memoryBytes: domain.spec.memoryBytes,
    vcpuCount: domain.spec.vcpuCount,
    phase: { kind: 'starting' },
    process: null,
    state: { kind: 'paused', cause: 'requested' },
    ...(domain.spec.tpm ? { tpm: null } : {}),
  }
  await writeRecord(host.files, paths.record, starting)
  const tpm = domain.spec.tpm ? { tpm: await startTpm(context, domain, paths, signal) } : {}
  const process = await host.processes.spawnDetached({
    command: context.qemuBinary,
    argv,
    environment: {},
    stderrPath: paths.stderr,
    user: context.user,
    inherit: files.inherit,
  })
  const record = { ...starting, process, ...tpm }
  await writeRecord(host.files, paths.record, record)
  const settled = spawned(process)
  const monitor = await firstMonitor(context, paths, process, signal).finally(() => settled)
  if (target.console === 'board-fixed') return { record, monitor, migrationSocket: paths.migration }
  try {
    await monitor.execute(
      'chardev-change',
      { id: 'console', backend: consoleBackend(files.consoleLog, paths.consoleInput) },
      { signal },
    )
  } catch (error) {
    monitor.close()
    throw error
  }
  return { record, monitor, migrationSocket: paths.migration }
}

async function firstMonitor(
  context: LaunchContext,
  paths: DomainPaths,
  process: ProcessIdentity,
  signal: AbortSignal,
): Promise<QmpClient> {
  const { host, clock } = context
  const settled = new AbortController()
  let hasExited = false
  host.processes.waitExit(process, { signal: settled.signal }).then(
    () => (hasExited = true),
    () => {},
  )
  const start = clock.monotonic()
  try {
    while (true) {
      signal.throwIfAborted()
      if (hasExited) throw new EarlyExit()
      const socket = await host.sockets.connect(paths.qmp).catch(() => null)
      if (socket) return await greeted(context, socket, () => hasExited, signal)
      if (clock.monotonic() - start > context.startLimit) {
        throw new Fault('timeout', `QMP greeting: QEMU has not opened its monitor in ${context.startLimit} ms`)
      }
      await clock.sleep(CONNECT_PAUSE, { signal })
    }
  } finally {
    settled.abort()
  }
}

async function greeted(
  context: LaunchContext,
  socket: Parameters<typeof QmpClient.open>[0],
  hasExited: () => boolean,
  signal: AbortSignal,
): Promise<QmpClient> {
  try {
    return await QmpClient.open(socket, {
      clock: context.clock,
      limit: context.monitorLimit,
      greetingLimit: context.startLimit,
      signal,
    })
  } catch (error) {
    // The monitor is opened before disks and boot files: QEMU may still die on those. Its end is seen a moment after the connection's.
    if (error instanceof Fault && error.code === 'unavailable') {
      await context.clock.sleep(millis(100), { signal })
      if (hasExited()) throw new EarlyExit()
    }
    throw error
  }
}

/**
 * What a killed caller left behind, settled. Nothing is believed but the record, the process and QEMU itself; and the record, being only
 * a file, is never a reason to end a guest.
 *
 *   record      process    QEMU says    becomes
 *   starting    any        -            swept; gone/unknown            (it never ran: it starts paused)
 *   live        runs       -            live, its state asked
 *   saving      runs       -            the save is taken back, the guest goes on; live
 *   saved       runs       -            ended; gone/requested          (the file is safe: the record says so)
 *   live        ended      -            gone/unknown with QEMU's last words
 *   saving      ended      -            the same; a whole file is kept, since the guest never went on after it
 *   saved       ended      -            gone/requested
 *   incoming    runs       inmigrate    swept; gone/unknown            (who sent its memory is cut off)
 *   incoming    runs       otherwise    as it is: all of it has come, and it is paused until it is taken over
 *   incoming    ended      -            gone/unknown
 *   arriving    runs       -            live: the guest waits for what it lacks of its memory
 *   arriving    ended      -            gone/unknown
 *   gone        ended      -            as recorded
 *   none or     ended      -            gone/unknown with QEMU's last words
 *   unreadable  runs       never ran    swept; gone/unknown            (`prelaunch`, `inmigrate`)
 *   unreadable  runs       it ran       live: the record is made anew of what the caller knows of the domain; the old one is kept beside
 *   unreadable  runs       nothing      left alone; Fault `unavailable`, which claims neither
 *
 * `prelaunch` is also said of a paused guest that was reset since: it has nothing in memory but its first instruction. A guest that stands
 * still behind a save (`postmigrate`) is taken for a paused one: whoever had it saved asks again and hears that it is not.
 */
import { Fault, toFault, unreachable, type Log, type Millis } from '@typevisor/base'
import type { DomainId } from '@typevisor/model'
import type { DriverDomain, DriverState } from '@typevisor/toolstack'
import type { DomainPaths } from './layout.ts'
import { endTpm, findQemu, kill, sweep, type LaunchContext } from './launch.ts'
import { endedByGuest, lastWords, type Machine } from './machine.ts'
import type { ProcessIdentity, QemuHost } from './ports.ts'
import { QmpClient } from './qmp.ts'
import { objectOf, textOf } from './read-json.ts'
import { findRecord, setAside, writeRecord, type RunRecord } from './record.ts'
import { stateOfRunState } from './run-state.ts'
import { abandonSave, partialPath } from './saving.ts'

export type Adopted =
  | { readonly kind: 'gone' }
  | {
      readonly kind: 'live'
      readonly record: RunRecord & { readonly process: ProcessIdentity }
      /** Open already, where it had to be asked; QEMU speaks with one at a time. */
      readonly monitor: QmpClient | null
      /** To be run once with the machine, before anything else. */
      readonly settle: (machine: Machine) => Promise<void>
    }

export interface AdoptionContext extends Pick<LaunchContext, 'host' | 'clock'> {
  readonly monitorLimit: Millis
  readonly log: Log
  /** What the caller knows of the domain, if anything. */
  readonly known: DriverDomain | null
}

async function isAlive(host: QemuHost, process: ProcessIdentity | null): Promise<boolean> {
  if (!process) return false
  const found = await host.processes.identity(process.pid)
  return found !== null && found.startTimeTicks === process.startTimeTicks && found.bootId === process.bootId
}

/** @throws Fault `unavailable` when a process is there and cannot be told from a guest that somebody needs. */
export async function adoptDomain(context: AdoptionContext, id: DomainId, paths: DomainPaths): Promise<Adopted> {
  const { host, log } = context
  if ((await host.files.size(paths.runFolder)) === null) return { kind: 'gone' }
  const found = await findRecord(host.files, paths.record)
  if (found.kind !== 'record') {
    return await adoptUnrecorded(context, id, paths, found.kind === 'none' ? 'there is none' : found.reason)
  }
  const { record } = found
  if (record.phase.kind === 'starting') {
    const stray = await findQemu(host, paths)
    log.info('qemu.adopt.swept', { folder: paths.runFolder, processCount: stray.length })
    await sweep(context, paths)
    return { kind: 'gone' }
  }
  const { phase, process } = record
  if (process && (await isAlive(host, process))) {
    if (phase.kind === 'saved') {
      await kill(context, process)
      await endTpm(context, paths)
      await gone(host, paths, record, { kind: 'gone', cause: 'requested', detail: null })
      return { kind: 'gone' }
    }
    if (phase.kind === 'incoming') {
      const monitor = await QmpClient.open(await host.sockets.connect(paths.qmp), {
        clock: context.clock,
        limit: context.monitorLimit,
      })
      const status = await statusBy(monitor)
      if (status !== 'inmigrate') return { kind: 'live', record: { ...record, process }, monitor, settle: async () => {} }
      log.info('qemu.adopt.swept', { folder: paths.runFolder, processCount: 1 })
      monitor.close()
      await sweep(context, paths)
      return { kind: 'gone' }
    }
    const settle = async (machine: Machine): Promise<void> => {
      if (phase.kind !== 'saving') return
      log.info('qemu.adopt.save_taken_back', { domain: record.id })
      await abandonSave(context, machine, phase.path, phase.wasRunning)
    }
    return { kind: 'live', record: { ...record, process }, monitor: null, settle }
  }
  await endTpm(context, paths)
  switch (phase.kind) {
    case 'gone':
      break
    case 'saved':
      if (record.state.kind !== 'gone') await gone(host, paths, record, { kind: 'gone', cause: 'requested', detail: null })
      break
    case 'saving':
      await host.files.remove(partialPath(phase.path))
      await gone(host, paths, record, { kind: 'gone', cause: 'unknown', detail: await lastWords(host, paths.stderr) })
      break
    case 'live':
    case 'arriving':
    case 'incoming':
      if (phase.kind === 'live' && (await endedByGuest(host, paths, record))) {
        await gone(host, paths, record, { kind: 'gone', cause: 'guest', detail: null })
        break
      }
      await gone(host, paths, record, { kind: 'gone', cause: 'unknown', detail: await lastWords(host, paths.stderr) })
      break
    default:
      return unreachable(phase)
  }
  return { kind: 'gone' }
}

const gone = (host: QemuHost, paths: DomainPaths, record: RunRecord, state: DriverState): Promise<void> =>
  writeRecord(host.files, paths.record, {
    ...record,
    state,
    phase: record.phase.kind === 'saved' ? record.phase : { kind: 'gone' },
  })

/** `query-status`; on a fault the monitor is closed. */
async function statusBy(monitor: QmpClient): Promise<string> {
  try {
    return textOf(objectOf(await monitor.execute('query-status'))['status']) ?? 'unknown'
  } catch (error) {
    monitor.close()
    throw error
  }
}

/** Without a record: what the process is, only its monitor can say. */
async function adoptUnrecorded(context: AdoptionContext, id: DomainId, paths: DomainPaths, why: string): Promise<Adopted> {
  const { host, clock, log, known, monitorLimit } = context
  const [process] = await findQemu(host, paths)
  log.warn('qemu.adopt.no_record', { domain: id, reason: why, pid: process?.pid ?? null })
  if (!process) return { kind: 'gone' }
  const leftAlone = (because: string, cause?: unknown): Fault =>
    new Fault(
      'unavailable',
      `domain ${known?.name ?? id}: process ${process.pid} is there, its record is not (${why}), and ${because}`,
      {
        cause,
      },
    )
  const ask = async (): Promise<{ monitor: QmpClient; status: string }> => {
    const monitor = await QmpClient.open(await host.sockets.connect(paths.qmp), { clock, limit: monitorLimit })
    return { monitor, status: await statusBy(monitor) }
  }
  const { monitor, status } = await ask().catch((error: unknown) => {
    throw leftAlone(`its monitor does not answer: ${toFault(error).message}`, error)
  })
  try {
    if (status === 'prelaunch' || status === 'inmigrate') {
      log.info('qemu.adopt.swept', { folder: paths.runFolder, processCount: 1 })
      await sweep(context, paths)
      monitor.close()
      return { kind: 'gone' }
    }
    if (!known) throw leftAlone('nobody has said what it was started with')
    const record = {
      version: 1,
      id,
      name: known.name,
      hardware: known.hardware,
      memoryBytes: known.spec.memoryBytes,
      vcpuCount: known.spec.vcpuCount,
      phase: { kind: 'live' },
      process,
      state: stateOfRunState(status),
    } as const
    if ((await host.files.size(paths.record)) !== null) await setAside(host.files, paths.record)
    await writeRecord(host.files, paths.record, record)
    log.info('qemu.adopt.record_made_anew', { domain: id, pid: process.pid, status })
    return { kind: 'live', record, monitor, settle: async () => {} }
  } catch (error) {
    monitor.close()
    throw error
  }
}

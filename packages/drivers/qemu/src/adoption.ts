/**
 * What a killed caller left behind, settled. Nothing is believed but the record, the process and QEMU itself.
 *
 *   record      process    becomes
 *   none        any QEMU   swept; gone/unknown            (it never ran: it starts paused)
 *   starting    any        swept; gone/unknown
 *   live        runs       live, its state asked
 *   saving      runs       the save is taken back, the guest goes on; live
 *   saved       runs       ended; gone/requested          (the file is safe: the record says so)
 *   live        ended      gone/unknown with QEMU's last words
 *   saving      ended      the same; a whole file is kept, since the guest never went on after it
 *   saved       ended      gone/requested
 *   gone        ended      as recorded
 */
import { unreachable, type Log } from '@typevisor/base'
import type { DriverState } from '@typevisor/toolstack'
import type { DomainPaths } from './layout.ts'
import { findQemu, kill, sweep, type LaunchContext } from './launch.ts'
import { lastWords, type Machine } from './machine.ts'
import type { ProcessIdentity, QemuHost } from './ports.ts'
import { readRecord, writeRecord, type RunRecord } from './record.ts'
import { abandonSave, partialPath } from './saving.ts'

export type Adopted =
  | { readonly kind: 'gone' }
  | {
      readonly kind: 'live'
      readonly record: RunRecord & { readonly process: ProcessIdentity }
      /** To be run once with the machine, before anything else. */
      readonly settle: (machine: Machine) => Promise<void>
    }

async function isAlive(host: QemuHost, process: ProcessIdentity | null): Promise<boolean> {
  if (!process) return false
  const found = await host.processes.identity(process.pid)
  return found !== null && found.startTimeTicks === process.startTimeTicks && found.bootId === process.bootId
}

export async function adoptDomain(
  context: Pick<LaunchContext, 'host' | 'clock'>,
  paths: DomainPaths,
  log: Log,
): Promise<Adopted> {
  const { host } = context
  if ((await host.files.size(paths.runFolder)) === null) return { kind: 'gone' }
  const record = await readRecord(host.files, paths.record)
  if (!record || record.phase.kind === 'starting') {
    const stray = await findQemu(host, paths)
    log.info('qemu.adopt.swept', { folder: paths.runFolder, processCount: stray.length })
    await sweep(context, paths)
    return { kind: 'gone' }
  }
  const { phase, process } = record
  if (process && (await isAlive(host, process))) {
    if (phase.kind === 'saved') {
      await kill(context, process)
      await gone(host, paths, record, { kind: 'gone', cause: 'requested', detail: null })
      return { kind: 'gone' }
    }
    const settle = async (machine: Machine): Promise<void> => {
      if (phase.kind !== 'saving') return
      log.info('qemu.adopt.save_taken_back', { domain: record.id })
      await abandonSave(context, machine, phase.path, phase.wasRunning)
    }
    return { kind: 'live', record: { ...record, process }, settle }
  }
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

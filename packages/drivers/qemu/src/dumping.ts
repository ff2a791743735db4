/**
 * The guest's memory as a core file. QEMU 7.2 writes one to a file or a descriptor only; into a named pipe of the run folder, so that the file
 * itself lies where its user cannot reach, and no disk of the run folder's is filled.
 *
 *   keeper opens the pipe --> dump-guest-memory (detached: answers when QEMU has it open) --> keeper closes --> PATH.partial --> PATH
 *
 * The guest stands still meanwhile and goes on as it was, also when this process is killed: QEMU finds nobody reading, and gives up.
 */
import { Fault, millis, type Clock } from '@typevisor/base'
import type { CoreFormat } from '@typevisor/toolstack'
import type { Machine } from './machine.ts'
import type { ProcessUser, QemuHost } from './ports.ts'
import { objectOf, textOf } from './read-json.ts'
import { partialPath } from './saving.ts'

export interface DumpContext {
  readonly host: QemuHost
  readonly clock: Clock
  readonly user: ProcessUser | null
  readonly machine: Machine
  readonly path: string
  readonly format: CoreFormat
  readonly signal: AbortSignal
}

const POLL = millis(20)
const FORMATS: Readonly<Record<CoreFormat, string>> = { elf: 'elf', kdump: 'kdump-zlib' }

/** @returns the file's size in bytes. On any fault no file is left. */
export async function dumpMachine({ host, clock, user, machine, path, format, signal }: DumpContext): Promise<number> {
  const { name } = machine.record
  const state = await machine.refresh({ signal })
  if (state.kind === 'powered-off') throw new Fault('conflict', `dump ${name}: it is powered off, and has no memory`)
  await using stack = new AsyncDisposableStack()
  const pipe = `${machine.paths.runFolder}/core.pipe`
  await host.files.makePipe(pipe, { user })
  stack.defer(() => host.files.remove(pipe))
  const reader = await host.files.openPipeReader(pipe)
  stack.defer(() => reader.close())
  const writer = await host.files.create(partialPath(path))
  let isWhole = false
  stack.defer(async () => {
    await writer.close()
    if (!isWhole) await host.files.remove(partialPath(path))
  })
  const abort = (): void => void reader.close()
  signal.addEventListener('abort', abort, { once: true })
  stack.defer(() => signal.removeEventListener('abort', abort))
  machine.setSaving(true)
  stack.defer(async () => {
    machine.setSaving(false)
    await machine.refresh().catch(() => {})
  })
  await machine.execute(
    'dump-guest-memory',
    { paging: false, protocol: `file:${pipe}`, detach: true, format: FORMATS[format] },
    { signal },
  )
  reader.begun()
  let sizeBytes = 0
  for await (const chunk of reader.readable) {
    await writer.append(chunk)
    sizeBytes += chunk.length
  }
  while (true) {
    const answer = objectOf(await machine.execute('query-dump', {}, signal.aborted ? {} : { signal }))
    const status = textOf(answer['status'])
    if (status === 'completed') break
    if (status !== 'active') {
      signal.throwIfAborted()
      throw new Fault('failed', `dump ${name}: QEMU says ${status ?? 'nothing'} after ${sizeBytes} bytes`)
    }
    await clock.sleep(POLL)
  }
  signal.throwIfAborted()
  await writer.sync()
  await host.files.rename(partialPath(path), path)
  isWhole = true
  return sizeBytes
}

/**
 * Save and restore as a migration through a unix socket, since QEMU may execute nothing (`spawn=deny`) and 7.2 writes no files itself.
 *
 *   save      QEMU --migrate unix:--> this process --> PATH.partial --header, fsync--> rename PATH --> record `saved` --> end QEMU
 *   restore   PATH checked in full --> this process --> QEMU --incoming defer, paused
 *   snapshot  as a save, to a file that stays; record `live`, and QEMU stays, paused
 *
 * While it saves QEMU itself answers for the guest: the allowed downtime is set to its maximum, so QEMU stops the guest at once, writes
 * everything in one pass, and starts it again by itself when the other end goes away. A caller that is killed half-way therefore costs
 * the guest a pause and nothing else. `adoption.ts` clears up behind it.
 *
 * The save is in force from the record `saved` on. Before it the guest goes on and the file is removed; after it the process is ended.
 * Never both: a guest that went on after its save would be restored onto disks that have moved on.
 */
import { Fault, millis, toFault, type Clock, type Millis } from '@typevisor/base'
import { isToRun } from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import type { Launched } from './launch.ts'
import type { Machine } from './machine.ts'
import type { ByteSocket, ProcessUser, QemuHost } from './ports.ts'
import { objectOf, textOf } from './read-json.ts'
import { checkSave, encodeHeader, HEADER_SIZE, headerOf, savedMachine, wholeSave, type SaveHeader } from './save-file.ts'
import { vcpuThreads } from './vcpus.ts'

export interface TransferContext {
  readonly host: QemuHost
  readonly clock: Clock
  readonly user: ProcessUser | null
  readonly limit: Millis
  readonly signal: AbortSignal
}

const POLL = millis(20)
const CANCEL_AFTER = millis(5000)
const CANCEL_LIMIT = millis(15_000)
const BANDWIDTH_MAX = 2 ** 50
/** QEMU's own limit, milliseconds: migration/migration.h, MAX_MIGRATE_DOWNTIME. */
const DOWNTIME_MAX_MS = 2_000_000

export const partialPath = (path: string): string => `${path}.partial`

type Execute = (
  command: string,
  args?: Parameters<Machine['execute']>[1],
  options?: Parameters<Machine['execute']>[2],
) => Promise<unknown>

export const migrationStatus = async (
  execute: Execute,
  signal?: AbortSignal,
): Promise<{ status: string; reason: string | null }> => {
  const answer = objectOf(await execute('query-migrate', {}, { signal }))
  return { status: textOf(answer['status']) ?? 'none', reason: textOf(answer['error-desc']) }
}

export const isOver = (status: string): boolean => ['none', 'completed', 'failed', 'cancelled'].includes(status)

type SaveContext = TransferContext & { readonly machine: Machine; readonly path: string }

/** @returns the file's size in bytes; the record says `saved` then, and the caller ends the machine. */
export const saveMachine = (context: SaveContext): Promise<number> =>
  written(context, 'save', (sizeBytes) => context.machine.setPhase({ kind: 'saved', path: context.path, sizeBytes }))

/**
 * The same, but the machine stays, paused behind its file, until `cont` (`postmigrate`: QEMU has let go of its disks, and takes them back
 * then). Once the record says `live` again nothing removes the file any more.
 * @returns the file's size in bytes, also of one that was written before and behind which the machine still stands.
 */
export async function snapshotMachine(context: SaveContext): Promise<number> {
  const { machine, path, signal, host } = context
  const status = await machine.runState({ signal })
  if (status === 'postmigrate') {
    const sizeBytes = await wholeSave(host.files, path, machine.id, signal)
    if (sizeBytes !== null) return sizeBytes
  }
  if (status === 'suspended')
    throw new Fault('conflict', `snapshot ${machine.record.name}: it sleeps, and would not wake from its memory; wake it first`)
  const wasRunning = isToRun(machine.state)
  return await written(context, 'snapshot', async () => {
    machine.setSaving(false)
    if (wasRunning) machine.expectPause()
    await machine.refresh({ signal })
    await machine.setPhase({ kind: 'live' })
  })
}

async function written(context: SaveContext, verb: string, settle: (sizeBytes: number) => Promise<void>): Promise<number> {
  const { machine, path, clock } = context
  const state = await machine.refresh({ signal: context.signal })
  if (state.kind !== 'running' && state.kind !== 'paused') {
    throw new Fault('conflict', `${verb} ${machine.record.name}: it is ${state.kind}, want running or paused`)
  }
  const limit = new AbortController()
  const settled = new AbortController()
  const signal = AbortSignal.any([context.signal, limit.signal])
  clock.sleep(context.limit, { signal: settled.signal }).then(
    () => limit.abort(new Fault('timeout', `${verb} ${machine.record.name}: not done in ${context.limit} ms`)),
    () => {},
  )
  // What lies there is of another save; from here on a whole file at `path` is of this one.
  await context.host.files.remove(path)
  // QEMU forgets by a migration why a guest stood still: one that waits for room finds that out again when it goes on.
  await machine.setPhase({ kind: 'saving', path, wasRunning: isToRun(state) })
  machine.setSaving(true)
  try {
    const sizeBytes = await stream({ ...context, signal })
    await settle(sizeBytes)
    return sizeBytes
  } catch (error) {
    await abandonSave(context, machine, path, isToRun(state)).catch((inner: unknown) => {
      const [why, whyNot] = [toFault(error).message, toFault(inner).message]
      throw new Fault(
        'unavailable',
        `${verb} ${machine.record.name}: ${why}; taking it back: ${whyNot}; it is settled when QEMU answers`,
        { cause: inner },
      )
    })
    if (machine.hasEnded) {
      const { state } = machine
      const words = state.kind === 'gone' ? state.detail : null
      throw new Fault('failed', `${verb} ${machine.record.name}: QEMU ended meanwhile: ${words ?? 'without a word'}`, {
        cause: error,
      })
    }
    throw error
  } finally {
    settled.abort()
  }
}

async function stream(context: TransferContext & { readonly machine: Machine; readonly path: string }): Promise<number> {
  const { host, machine, path, user, signal, clock } = context
  await using stack = new AsyncDisposableStack()
  const listener = await host.sockets.listen(machine.paths.migration, { user })
  stack.defer(() => listener.close())
  const writer = await host.files.create(partialPath(path))
  stack.defer(() => writer.close())
  if ((await machine.runState({ signal })) === 'postmigrate') {
    // A guest that stood still behind a snapshot: QEMU writes no second stream before it has run, be it for a moment.
    await machine.execute('cont', {}, { signal })
    await machine.execute('stop', {}, { signal })
  }
  await machine.execute(
    'migrate-set-parameters',
    { 'max-bandwidth': BANDWIDTH_MAX, 'downtime-limit': DOWNTIME_MAX_MS },
    { signal },
  )
  await machine.execute('migrate', { uri: `unix:${machine.paths.migration}` }, { signal })
  const socket = await accepted(listener.accept({ signal }), machine, signal)
  stack.defer(() => socket.close())
  const abort = (): void => socket.close()
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  stack.defer(() => signal.removeEventListener('abort', abort))

  await writer.append(new Uint8Array(HEADER_SIZE))
  const digest = host.files.digest()
  let payloadBytes = 0
  for await (const chunk of socket.readable) {
    digest.update(chunk)
    await writer.append(chunk)
    payloadBytes += chunk.length
  }
  signal.throwIfAborted()
  // The stream has ended: by completion or by failure, which only QEMU knows.
  while (true) {
    const { status, reason } = await migrationStatus((...call) => machine.execute(...call), signal)
    if (status === 'completed') break
    if (isOver(status))
      throw new Fault('failed', `save ${machine.record.name}: QEMU says ${status}${reason ? `: ${reason}` : ''}`)
    await clock.sleep(POLL, { signal })
  }
  const { id, hardware, memoryBytes } = machine.record
  const vcpuCount = (await vcpuThreads(machine, signal)).length
  const whose = savedMachine(host.files, { id, hardware, vcpuCount, memoryBytes })
  const qemuVersion = textOf(objectOf(objectOf(await machine.execute('query-version', {}, { signal })))['package']) ?? ''
  await writer.writeAt(
    0,
    encodeHeader(host.files, headerOf(whose, { qemuVersion, clock, payloadBytes, payloadSha256: digest.hex() })),
  )
  await writer.sync()
  signal.throwIfAborted()
  await host.files.rename(partialPath(path), path)
  return HEADER_SIZE + payloadBytes
}

/** A QEMU that ends, or refuses after it took the command, never connects. */
async function accepted(accept: Promise<ByteSocket>, machine: Machine, signal: AbortSignal): Promise<ByteSocket> {
  const ended = machine.exited.then((): never => {
    throw new Fault('failed', `save ${machine.record.name}: QEMU ended`)
  })
  ended.catch(() => {})
  accept.catch(() => {})
  signal.throwIfAborted()
  return await Promise.race([accept, ended])
}

/** Takes a save back: the migration is over, the guest goes on as before, no file is left, the record says `live`. Safe to run twice. */
export async function abandonSave(
  context: Pick<TransferContext, 'host' | 'clock'>,
  machine: Machine,
  path: string,
  wasRunning: boolean,
): Promise<void> {
  const { host, clock } = context
  // Before the guest goes on: a save that is older than its disks must not be found by anybody.
  await host.files.remove(partialPath(path))
  await host.files.remove(path)
  if (!machine.hasEnded) {
    try {
      await settleMigration(clock, machine)
      if (wasRunning && !['running', 'shutdown', 'guest-panicked', 'io-error'].includes(await machine.runState()))
        await machine.execute('cont')
    } catch (error) {
      // A moment for the end of the process to be seen; what has ended needs no settling.
      await Promise.race([machine.exited, clock.sleep(millis(200))])
      if (!machine.hasEnded) throw error
    }
  }
  if (machine.hasEnded) return
  await machine.setPhase({ kind: 'live' })
  machine.setSaving(false)
  await machine.refresh()
}

/**
 * Until the migration is over. Its other end is closed by now, of which it dies by itself; cancelling is kept for one that does not notice.
 * QEMU 7.2 that is cancelled just as it stops the guest leaves the disks inactive: the guest goes on, and the next write or save ends QEMU
 * by an assertion (migration/migration.c: `migrate_fd_cancel` has looked at `block_inactive` before `migration_completion` sets it).
 */
export async function settleMigration(clock: Clock, machine: Machine): Promise<void> {
  const start = clock.monotonic()
  let hasCancelled = false
  while (true) {
    const { status } = await migrationStatus((...call) => machine.execute(...call))
    if (isOver(status)) return
    const takenMs = clock.monotonic() - start
    if (takenMs > CANCEL_AFTER && !hasCancelled) {
      await machine.execute('migrate_cancel')
      hasCancelled = true
    }
    if (takenMs > CANCEL_LIMIT) throw new Fault('timeout', `QMP migrate_cancel: still ${status} after ${CANCEL_LIMIT} ms`)
    await clock.sleep(POLL)
  }
}

/** @throws Fault `not_found` or `failed` where `restoreInto` would. */
export async function checkSaveOf(host: QemuHost, domain: DriverDomain, path: string, signal: AbortSignal): Promise<SaveHeader> {
  const { id, hardware, spec } = domain
  const wanted = savedMachine(host.files, { id, hardware, vcpuCount: spec.vcpuCount, memoryBytes: spec.memoryBytes })
  return await checkSave(host.files, path, { ...wanted, vcpuCountMax: spec.vcpuCountMax ?? spec.vcpuCount }, signal)
}

/** Checks the file, then starts a machine by `start` and feeds it. */
export async function restoreInto(
  context: TransferContext & { readonly domain: DriverDomain; readonly path: string },
  start: (machine: DriverDomain, feed: (launched: Launched) => Promise<void>) => Promise<void>,
): Promise<void> {
  const { host, domain, path, clock, signal } = context
  const { vcpuCount } = await checkSaveOf(host, domain, path, signal)
  await start({ ...domain, settings: { ...domain.settings, vcpuCount } }, async ({ monitor, migrationSocket }) => {
    const began = clock.monotonic()
    const execute: Execute = (...call) => monitor.execute(...call)
    await execute('migrate-incoming', { uri: `unix:${migrationSocket}` }, { signal })
    const socket = await host.sockets.connect(migrationSocket)
    const abort = (): void => socket.close()
    signal.addEventListener('abort', abort, { once: true })
    try {
      signal.throwIfAborted()
      for await (const chunk of host.files.stream(path, HEADER_SIZE)) await socket.write(chunk)
      while (true) {
        signal.throwIfAborted()
        const { status, reason } = await migrationStatus(execute, signal)
        if (status === 'completed') break
        if (isOver(status) && status !== 'none')
          throw new Fault('failed', `restore ${domain.name}: QEMU says ${status}${reason ? `: ${reason}` : ''}`)
        if (clock.monotonic() - began > context.limit)
          throw new Fault('timeout', `restore ${domain.name}: not done in ${context.limit} ms`)
        await clock.sleep(POLL, { signal })
      }
      // QEMU says `inmigrate` for a moment longer.
      while (textOf(objectOf(await execute('query-status', {}, { signal }))['status']) === 'inmigrate')
        await clock.sleep(POLL, { signal })
    } catch (error) {
      signal.throwIfAborted()
      throw error
    } finally {
      signal.removeEventListener('abort', abort)
      socket.close()
    }
  })
}

/**
 * A running domain on its way to another host.
 *
 *   disks    blockdev-mirror of each writable disk --nbd.sock--> this process --peer--> the other QEMU's NBD server
 *   memory   migrate --migration.sock--> this process --peer--> the other QEMU, `-incoming`
 *
 *   mirror until all are ready --> migrate --> pre-switchover (the guest stands still) --> mirrors ended, told --> migrate-continue --> completed
 *
 * QEMU speaks to unix sockets alone; who carries the bytes is not known here. The mirrors are ready before the memory begins, and follow what
 * the guest writes until it stands still: only then are the disks one moment of the guest, that of its memory.
 *
 * Failure paths: a stream that breaks fails the job or the migration behind it, and QEMU starts the guest again by itself. `takeBack` ends
 * what is left, and lets the guest go on where QEMU did not. It is the only way back from `completed`, and never taken by this module
 * itself once `completed` was seen: from then on the other side may be told to go.
 */
import { Fault, millis, toFault, type Clock, type Millis } from '@typevisor/base'
import {
  isToRun,
  type DomainDevice,
  type DomainHardware,
  type MigrationProgress,
  type MigrationStatistics,
} from '@typevisor/model'
import { joinStreams, type MigrateOptions, type MigrationPeer } from '@typevisor/toolstack'
import { deviceIds } from './command-line.ts'
import type { Machine } from './machine.ts'
import type { ProcessUser, QemuHost, SocketListener } from './ports.ts'
import { listOf, numberOf, objectOf, textOf } from './read-json.ts'
import { isOver, migrationStatus, settleMigration } from './saving.ts'

export interface MigratingContext {
  readonly host: QemuHost
  readonly clock: Clock
  readonly user: ProcessUser | null
  readonly machine: Machine
  readonly peer: MigrationPeer
  readonly options: MigrateOptions
  readonly signal: AbortSignal
}

const POLL = millis(100)
/** While the guest stands still: what an event tells is there a moment later. */
const POLL_SWITCHING = millis(5)
const POLL_FETCHED = millis(50)
const REJOIN_EVERY = millis(500)
const JOBS_END_LIMIT_MS = 30_000
const BANDWIDTH_MAX = 2 ** 50
const DOWNTIME_LIMIT_MS = 300
/** The first that tells an emulated processor, each time it looks for what was written, to say so again: QEMU commit 03bfc2188f06. */
const LOOKS_AGAIN_SINCE = 9
const MIRROR = 'mirror-'

export interface MovedDisk {
  readonly device: DomainDevice & { readonly kind: 'disk' }
  /** QEMU's name of the device, and of its export. */
  readonly id: string
}

/** What goes with the domain: what is read-only is the same on both sides. */
export const movedDisks = (hardware: DomainHardware): MovedDisk[] =>
  [...deviceIds(hardware)].flatMap(([device, id]) => (device.kind === 'disk' && !device.readOnly ? [{ device, id }] : []))

/** Those of QEMU that are not its own defaults and must not outlive the migration: a save would stop at them. */
export const capabilitiesOf = (
  options: Pick<MigrateOptions, 'channelCount' | 'autoConverge' | 'postCopy'>,
  isSource: boolean,
) => [
  { capability: 'events', state: true },
  { capability: 'pause-before-switchover', state: isSource },
  { capability: 'auto-converge', state: isSource && (options.autoConverge ?? false) },
  { capability: 'multifd', state: (options.channelCount ?? 0) > 0 },
  { capability: 'postcopy-ram', state: options.postCopy ?? false },
]
export const NO_CAPABILITIES = capabilitiesOf({}, false).map(({ capability }) => ({ capability, state: false }))

export async function migrateMachine(context: MigratingContext): Promise<MigrationStatistics> {
  const { machine, signal } = context
  const state = await machine.refresh({ signal })
  const { name } = machine.record
  if (state.kind !== 'running' && state.kind !== 'paused')
    throw new Fault('conflict', `migrate ${name}: it is ${state.kind}, want running or paused`)
  const runState = await machine.runState({ signal })
  if (runState === 'suspended')
    throw new Fault('conflict', `migrate ${name}: it sleeps, and would not wake on the other host; wake it first`)
  const wasRunning = isToRun(state)
  machine.setSaving(true)
  const migration = new Migration(context)
  try {
    return await migration.run(runState)
  } catch (error) {
    await takeBackMachine(context, machine, wasRunning, migration.isSwitching).catch((inner: unknown) => {
      throw new Fault('unavailable', `migrate ${name}: ${toFault(error).message}; taking it back: ${toFault(inner).message}`, {
        cause: inner,
      })
    })
    signal.throwIfAborted()
    throw error
  }
}

class Migration {
  readonly #context: MigratingContext
  readonly #startedAt: number
  /** Of the streams to the other side: what QEMU calls an input/output error. */
  #streamFault: unknown = null
  #memory = { memoryBytes: 0, memoryRemainingBytes: 0, dirtyBytesPerSecond: null as number | null }
  #disks = { diskBytes: 0, diskRemainingBytes: 0 }
  /** What QEMU said last by itself. */
  #told: string | null = null
  #isFetched = false
  /** Nobody can tell from outside when its only pass is about to end: of such a one all is fetched. */
  #isOnePass = false
  /** It was told to let go of the disks, which it may be doing. */
  isSwitching = false
  readonly #stoppedAt: { value: number | null } = { value: null }

  constructor(context: MigratingContext) {
    this.#context = context
    this.#startedAt = context.clock.monotonic()
  }

  async run(runState: string): Promise<MigrationStatistics> {
    const { machine, options, signal, clock } = this.#context
    await using stack = new AsyncDisposableStack()
    if (runState === 'postmigrate') {
      // It stands still behind a snapshot, with its disks let go of: QEMU takes them back when it runs, be it for a moment.
      await machine.execute('cont', {}, { signal })
      await machine.execute('stop', {}, { signal })
    }
    stack.defer(
      machine.onEvent(({ name, content }) => {
        if (name === 'STOP') this.#stoppedAt.value ??= clock.monotonic()
        if (name === 'MIGRATION') this.#told = textOf(content['status'])
      }),
    )
    await machine.execute('migrate-set-capabilities', { capabilities: capabilitiesOf(options, true) }, { signal })
    this.#isOnePass = await losesWrites(machine, signal)
    await machine.execute('migrate-set-parameters', parametersOf(options, this.#isOnePass), { signal })
    const disks = movedDisks(machine.record.hardware)
    await this.#mirror(disks, stack)
    await this.#sendMemory(stack)
    await this.#until(['MIGRATION'], async () => this.#told === 'pre-switchover' || this.#reached('pre-switchover'))
    await this.#endMirrors(disks)
    this.#tell('switchover')
    const ended = disks.map(({ id }) => machine.execute('blockdev-del', { 'node-name': `${MIRROR}${id}` }, { signal }))
    await Promise.all([this.#context.peer.disksDone({ signal }), ...ended])
    if (options.postCopy) return this.#statistics(await machine.execute('query-migrate', {}, { signal }))
    this.isSwitching = true
    await machine.execute('migrate-continue', { state: 'pre-switchover' }, { signal })
    return this.#statistics(await this.#until(['MIGRATION'], () => this.#reached('completed'), POLL_SWITCHING))
  }

  #statistics(answer: unknown): MigrationStatistics {
    const ram = objectOf(objectOf(answer)['ram'])
    const now = this.#context.clock.monotonic()
    return {
      totalMs: Math.round(now - this.#startedAt),
      downtimeMs: Math.round(now - (this.#stoppedAt.value ?? now)),
      memoryBytes: numberOf(ram['transferred']) ?? 0,
      diskBytes: this.#disks.diskBytes,
    }
  }

  async #mirror(disks: readonly MovedDisk[], stack: AsyncDisposableStack): Promise<void> {
    const { machine, signal, options } = this.#context
    if (disks.length === 0) return
    const listener = await this.#listen(machine.paths.nbd, stack)
    for (const { device, id } of disks) {
      const accepting = this.#carry(listener, `disk:${device.name}`)
      const server = { type: 'unix', path: machine.paths.nbd }
      await Promise.all([
        machine.execute('blockdev-add', { driver: 'nbd', 'node-name': `${MIRROR}${id}`, server, export: id }, { signal }),
        accepting,
      ])
      const job = { 'job-id': `${MIRROR}${id}`, device: `${id}-format`, target: `${MIRROR}${id}`, sync: 'full' }
      await machine.execute('blockdev-mirror', { ...job, speed: options.bandwidthBytes ?? 0 }, { signal })
    }
    await this.#until(['BLOCK_JOB_READY', 'BLOCK_JOB_COMPLETED', 'BLOCK_JOB_ERROR'], async () => {
      const jobs = await this.#jobs(disks)
      this.#tell('disks')
      return jobs.every((job) => job['ready'] === true) ? jobs : null
    })
  }

  /** @throws Fault `failed` when one has ended by itself. */
  async #jobs(disks: readonly MovedDisk[]): Promise<ReturnType<typeof objectOf>[]> {
    const { machine, signal } = this.#context
    const jobs = await mirrorsOf(machine, signal)
    if (jobs.length < disks.length) throw this.#diskFault()
    const sum = (read: (job: ReturnType<typeof objectOf>) => number): number => jobs.reduce((all, job) => all + read(job), 0)
    const sentBytes = sum((job) => numberOf(job['offset']) ?? 0)
    this.#disks = { diskBytes: sentBytes, diskRemainingBytes: Math.max(0, sum((job) => numberOf(job['len']) ?? 0) - sentBytes) }
    return jobs
  }

  #diskFault(cause?: Fault): Fault {
    const said = `migrate ${this.#context.machine.record.name}: a disk could not be copied`
    return new Fault('failed', `${said}${cause ? `: ${cause.message}` : ''}${this.#because()}`, { cause })
  }

  async #sendMemory(stack: AsyncDisposableStack): Promise<void> {
    const { machine, signal, options } = this.#context
    const listener = await this.#listen(machine.paths.migration, stack)
    const carrying = (async () => {
      // The first connection is the stream itself, and has to be the first over there too; the others come when QEMU likes.
      await this.#carry(listener, 'memory')
      for (let count = 0; count < (options.channelCount ?? 0); count += 1) await this.#carry(listener, 'memory')
    })()
    carrying.catch(() => {})
    this.#tell('memory')
    await machine.execute('migrate', { uri: `unix:${machine.paths.migration}` }, { signal })
  }

  async #listen(path: string, stack: AsyncDisposableStack): Promise<SocketListener> {
    const listener = await this.#context.host.sockets.listen(path, { user: this.#context.user })
    stack.defer(() => listener.close())
    return listener
  }

  /** The next connection of QEMU, joined to a channel of the other side. */
  async #carry(listener: SocketListener, channel: string): Promise<void> {
    const { peer, signal } = this.#context
    const socket = await listener.accept({ signal })
    try {
      const stream = await peer.open(channel, { signal })
      const abort = (): void => (socket.close(), stream.close())
      signal.addEventListener('abort', abort, { once: true })
      void joinStreams(socket, stream).finally(() => signal.removeEventListener('abort', abort))
    } catch (error) {
      this.#streamFault ??= error
      socket.close()
      throw error
    }
  }

  /** Answers what QEMU says of it once it is there. @throws Fault `failed` with QEMU's words. */
  async #reached(wanted: 'pre-switchover' | 'completed'): Promise<ReturnType<typeof objectOf> | null> {
    const { machine, signal } = this.#context
    const answer = objectOf(await machine.execute('query-migrate', {}, { signal }))
    const status = textOf(answer['status']) ?? 'none'
    const ram = objectOf(answer['ram'])
    const rate = numberOf(ram['dirty-pages-rate'])
    this.#memory = {
      memoryBytes: numberOf(ram['transferred']) ?? this.#memory.memoryBytes,
      memoryRemainingBytes: numberOf(ram['remaining']) ?? this.#memory.memoryRemainingBytes,
      dirtyBytesPerSecond: rate === null ? null : rate * (numberOf(ram['page-size']) ?? 4096),
    }
    if (status === wanted) return answer
    const hasGoneOnce = (numberOf(ram['dirty-sync-count']) ?? 0) > 1
    if (this.#context.options.postCopy && !this.#isFetched && status === 'active' && (this.#isOnePass || hasGoneOnce)) {
      this.#isFetched = true
      await machine.execute('migrate-start-postcopy', {}, { signal })
    }
    if (isOver(status) && status !== 'none') throw givenUp(machine, answer, this.#because())
    this.#tell('memory')
    return null
  }

  async #endMirrors(disks: readonly MovedDisk[]): Promise<void> {
    const { machine, signal } = this.#context
    if (disks.length === 0) return
    // What the guest wrote last is still on its way.
    const failed: string[] = []
    const ended = new Set<string>()
    const stop = machine.onEvent(({ name, content }) => {
      if (name !== 'BLOCK_JOB_COMPLETED' && name !== 'BLOCK_JOB_CANCELLED') return
      ended.add(textOf(content['device']) ?? '')
      const error = textOf(content['error'])
      if (error !== null) failed.push(error)
    })
    try {
      await Promise.all(
        disks.map(({ id }) => machine.execute('block-job-cancel', { device: `${MIRROR}${id}`, force: false }, { signal })),
      ).catch((error: unknown) => {
        signal.throwIfAborted()
        throw this.#diskFault(toFault(error))
      })
      await this.#until(
        ['BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED'],
        async () => ended.size === disks.length || (await mirrorsOf(machine, signal)).length === 0 || null,
        POLL_SWITCHING,
      )
    } finally {
      stop()
    }
    if (failed.length > 0) throw new Fault('failed', `migrate ${machine.record.name}: a disk: ${failed.join('; ')}`)
  }

  #tell(phase: MigrationProgress['phase']): void {
    this.#context.options.onProgress?.({ phase, ...this.#memory, ...this.#disks })
  }

  #because(): string {
    return this.#streamFault === null ? '' : ` (${toFault(this.#streamFault).message})`
  }

  async #until<T>(events: readonly string[], look: () => Promise<T | null>, poll: Millis = POLL): Promise<T> {
    return await untilFound({ ...this.#context, events, look, poll })
  }
}

/** With what QEMU says of it. */
function givenUp(machine: Machine, answer: ReturnType<typeof objectOf>, because = ''): Fault {
  const reason = textOf(answer['error-desc'])
  const why = reason === null ? '' : `: ${reason}`
  return new Fault('failed', `migrate ${machine.record.name}: QEMU says ${textOf(answer['status']) ?? 'none'}${why}${because}`)
}

/** The other side has all but memory, and fetches that. */
export const isFetching = (status: string): boolean => status.startsWith('postcopy-')

export interface RestContext extends Pick<MigratingContext, 'host' | 'clock' | 'user' | 'machine' | 'signal'> {
  readonly peer: Pick<MigrationPeer, 'open'>
  readonly onProgress?: ((progress: MigrationProgress) => void) | undefined
}

/** Behind `migrateMachine` by post-copy. `DomainDriver.sendRest` says what of it is promised. */
export async function sendRest(context: RestContext): Promise<void> {
  const { machine, clock, signal, onProgress } = context
  const look = async (): Promise<boolean | null> => {
    const answer = objectOf(await machine.execute('query-migrate', {}, { signal }))
    const status = textOf(answer['status']) ?? 'none'
    if (status === 'completed') return true
    const ram = objectOf(answer['ram'])
    onProgress?.({
      phase: 'fetched',
      memoryBytes: numberOf(ram['transferred']) ?? 0,
      memoryRemainingBytes: numberOf(ram['remaining']) ?? 0,
      diskBytes: 0,
      diskRemainingBytes: 0,
      dirtyBytesPerSecond: null,
    })
    // Where its streams are gone QEMU fails of it, and the other one with it.
    if (status === 'pre-switchover') await machine.execute('migrate-continue', { state: 'pre-switchover' }, { signal })
    if (status === 'postcopy-paused') return false
    if (isOver(status)) throw givenUp(machine, answer)
    return null
  }
  try {
    while (!(await untilFound({ machine, clock, signal, events: ['MIGRATION'], look, poll: POLL_FETCHED }))) {
      await rejoin(context).catch(() => signal.throwIfAborted())
      await clock.sleep(REJOIN_EVERY, { signal })
    }
  } catch (error) {
    if (!machine.hasEnded) throw error
  }
}

/** A new stream for what broke. The other side is asked first: QEMU alone would take the wait for it for a broken one. */
async function rejoin({ host, machine, user, peer, signal }: RestContext): Promise<void> {
  const stream = await peer.open('memory', { signal })
  try {
    const listener = await host.sockets.listen(machine.paths.migration, { user })
    try {
      await machine.execute('migrate', { uri: `unix:${machine.paths.migration}`, resume: true }, { signal })
      void joinStreams(await listener.accept({ signal }), stream)
    } finally {
      await listener.close()
    }
  } catch (error) {
    stream.close()
    throw error
  }
}

/** Looks each time that one of `events` comes, and now and then. @throws Fault `failed` when QEMU ends. */
export async function untilFound<T>(options: {
  readonly machine: Machine
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly events: readonly string[]
  readonly look: () => Promise<T | null>
  readonly poll?: Millis
}): Promise<T> {
  const { machine, clock, signal, events, look, poll = POLL } = options
  while (true) {
    signal.throwIfAborted()
    const bell = new AbortController()
    const stop = machine.onEvent(({ name }) => events.includes(name) && bell.abort())
    try {
      const found = await look()
      if (found !== null) return found
      const rung = AbortSignal.any([bell.signal, signal])
      await Promise.race([clock.sleep(poll, { signal: rung }).catch(() => {}), machine.exited])
    } catch (error) {
      // Of a QEMU that ends the monitor is the first to be gone.
      if (error instanceof Fault && error.code === 'unavailable') await Promise.race([machine.exited, clock.sleep(millis(500))])
      if (!machine.hasEnded) throw error
    } finally {
      stop()
      bell.abort()
    }
    if (machine.hasEnded) {
      const words = machine.state.kind === 'gone' ? machine.state.detail : null
      throw new Fault('failed', `migrate ${machine.record.name}: QEMU ended: ${words ?? 'without a word'}`)
    }
  }
}

/**
 * Whether memory that is looked at a second time while the guest runs may be taken for unchanged: before 9.0 an emulated processor goes on
 * writing past the record of what it writes, until it forgets its translations by itself. Asked of the process, which may be older than
 * the program on the disk.
 */
async function losesWrites(machine: Machine, signal: AbortSignal): Promise<boolean> {
  if (objectOf(await machine.execute('query-kvm', {}, { signal }))['enabled'] === true) return false
  const { qemu } = objectOf(await machine.execute('query-version', {}, { signal }))
  return (numberOf(objectOf(qemu)['major']) ?? 0) < LOOKS_AGAIN_SINCE
}

/** In one pass all goes once while the guest runs, and what it wrote meanwhile when it stands still, however long that takes. */
function parametersOf({ downtimeLimitMs, bandwidthBytes, channelCount }: MigrateOptions, isOnePass: boolean) {
  return {
    'max-bandwidth': bandwidthBytes ?? BANDWIDTH_MAX,
    'max-postcopy-bandwidth': bandwidthBytes ?? 0,
    // 0: QEMU begins no second pass.
    'downtime-limit': isOnePass ? 0 : (downtimeLimitMs ?? DOWNTIME_LIMIT_MS),
    ...((channelCount ?? 0) > 0 ? { 'multifd-channels': channelCount } : {}),
  }
}

const mirrorsOf = async (machine: Machine, signal?: AbortSignal): Promise<ReturnType<typeof objectOf>[]> =>
  listOf(await machine.execute('query-block-jobs', {}, { signal }))
    .map(objectOf)
    .filter((job) => textOf(job['device'])?.startsWith(MIRROR) === true)

/**
 * Whatever became of it: no migration, no mirror, and the guest as before. Safe to run twice, and of a machine that never was on its way.
 * One that is switching over is not cancelled (`settleMigration` says why): its stream is closed by now, of which it dies by itself.
 */
export async function takeBackMachine(
  { clock }: Pick<MigratingContext, 'clock'>,
  machine: Machine,
  wasRunning: boolean,
  isSwitching = false,
): Promise<void> {
  if (machine.hasEnded) return
  try {
    const { status } = await migrationStatus((...call) => machine.execute(...call))
    // QEMU says `cancelling` of such a one for ever.
    if (isFetching(status) && status !== 'postcopy-active') return void (await machine.execute('quit'))
    if (!isSwitching && (status === 'pre-switchover' || isFetching(status))) await machine.execute('migrate_cancel')
    await settleMigration(clock, machine)
    const end = clock.monotonic() + JOBS_END_LIMIT_MS
    for (let isFirst = true; ; isFirst = false) {
      const jobs = await mirrorsOf(machine)
      if (jobs.length === 0) break
      if (isFirst) {
        for (const job of jobs) {
          // It may have ended in between.
          await machine.execute('block-job-cancel', { device: textOf(job['device']) ?? '', force: true }).catch(() => {})
        }
      }
      if (clock.monotonic() > end) throw new Fault('timeout', `QMP block-job-cancel: not ended in ${JOBS_END_LIMIT_MS} ms`)
      await clock.sleep(millis(20))
    }
    for (const node of listOf(await machine.execute('query-named-block-nodes', { flat: true }))) {
      const name = textOf(objectOf(node)['node-name'])
      if (name?.startsWith(MIRROR)) await machine.execute('blockdev-del', { 'node-name': name })
    }
    await machine.execute('migrate-set-capabilities', { capabilities: NO_CAPABILITIES })
    if (wasRunning && !['running', 'shutdown', 'guest-panicked', 'io-error'].includes(await machine.runState()))
      await machine.execute('cont')
  } catch (error) {
    // A moment for the end of the process to be seen; what has ended needs no settling.
    await Promise.race([machine.exited, clock.sleep(millis(200))])
    if (!machine.hasEnded) throw error
    return
  }
  machine.setSaving(false)
  await machine.refresh()
}

/**
 * One live QEMU process, watched: its monitor, its console, its guest agent, and what became of it.
 *
 *              +--> follow(): connect, ask for the state, fold events; again when the monitor breaks
 *   Machine ---+
 *              +--> awaitExit(): the process ends --> last words --> gone
 *
 * Invariants
 *   - The state is told in order and once per change; its cause is written to the record too, so that a later caller knows it.
 *   - `let go` ends the watching and nothing else.
 *   - A guest that waits for room is let go on every few seconds, by nobody but this and under the domain's lock; QEMU writes again what it
 *     could not, and stops it for the same reason where that fails.
 * Failure paths: a QEMU that hangs gives `timeout` per command and is watched on; one that dies is `gone` with its last words.
 */
import { Fault, millis, toFault, type Clock, type Log, type Millis } from '@typevisor/base'
import { waitsForRoom, type DomainHardware, type DomainId } from '@typevisor/model'
import type { DriverState } from '@typevisor/toolstack'
import { TARGETS } from './architecture.ts'
import { ConsoleHub } from './console.ts'
import { GuestAgent } from './guest-agent.ts'
import type { DomainPaths } from './layout.ts'
import type { ProcessIdentity, QemuHost } from './ports.ts'
import { QmpClient, type QmpCallOptions, type QmpEvent } from './qmp.ts'
import { isObject, listOf, objectOf, textOf } from './read-json.ts'
import { writeRecord, type RunPhase, type RunRecord } from './record.ts'
import { PAUSE_REQUESTED, sameState, stateOfDisks, stateOfRunState, step, watchFrom, type Watch } from './run-state.ts'

export interface MachineContext {
  readonly host: QemuHost
  readonly clock: Clock
  readonly log: Log
  readonly monitorLimit: Millis
  /** Between two attempts of a guest that waits for room on its disk. */
  readonly roomInterval: Millis
  /** Alone with the domain: no verb is under way meanwhile. */
  exclusive(id: DomainId, work: (signal: AbortSignal) => Promise<void>): Promise<void>
  report(id: DomainId, kind: 'state' | 'reset', state: DriverState): void
  /** The process has ended; the machine is no more. */
  ended(machine: Machine): void
}

const RECONNECT_FIRST_MS = 50
const RECONNECT_LAST_MS = 2000
/** A write that was repeated has failed again by then, or there is room. */
const ROOM_PROOF = millis(2000)
const LAST_WORDS_SIZE = 4096
const LAST_WORDS_LINES = 8

/** The end of what QEMU wrote to standard error; null: nothing. */
export async function lastWords(host: QemuHost, path: string): Promise<string | null> {
  const size = await host.files.size(path)
  if (size === null || size === 0) return null
  const content = await host.files.read(path, Math.max(0, size - LAST_WORDS_SIZE), LAST_WORDS_SIZE)
  const lines = new TextDecoder().decode(content ?? new Uint8Array(0)).split('\n')
  const text = lines
    .map((line) => line.trimEnd())
    .filter((line) => line !== '')
    .slice(-LAST_WORDS_LINES)
    .join('\n')
  return text === '' ? null : text
}

/**
 * The riscv64 board's own power switch ends QEMU (7.2: hw/misc/sifive_test.c calls exit), whatever `-no-shutdown` says. One that leaves so has
 * removed its pid file and says nothing; one that is killed has not.
 */
export async function endedByGuest(
  host: QemuHost,
  paths: Pick<DomainPaths, 'pid' | 'stderr' | 'runFolder'>,
  { hardware }: Pick<RunRecord, 'hardware'>,
): Promise<boolean> {
  if (hardware.machine !== TARGETS.riscv64.machine || (await host.files.size(paths.runFolder)) === null) return false
  return (await host.files.size(paths.pid)) === null && (await lastWords(host, paths.stderr)) === null
}

export class Machine {
  readonly id: DomainId
  readonly paths: DomainPaths
  readonly process: ProcessIdentity
  readonly console: ConsoleHub
  readonly agent: GuestAgent
  /** Resolves when the process has ended and that was told. */
  readonly exited: Promise<void>
  readonly #context: MachineContext
  readonly #letGo = new AbortController()
  readonly #eventWaiters = new Set<(event: QmpEvent) => void>()
  #record: RunRecord
  #watch: Watch
  #monitor: QmpClient | null = null
  #opening: Promise<QmpClient> | null = null
  #writing: Promise<void> = Promise.resolve()
  #endAsked = false
  #cpuTimeNsMax = 0
  #owesWord = false
  #hasEnded = false
  #isMindingRoom = false
  /** Grows with each event that may have changed the state. */
  #eventCount = 0

  /** `monitor`: already open, when the caller has just started the process. */
  constructor(
    context: MachineContext,
    paths: DomainPaths,
    record: RunRecord & { process: ProcessIdentity },
    monitor: QmpClient | null,
  ) {
    this.id = record.id
    this.paths = paths
    this.process = record.process
    this.#context = context
    this.#record = record
    this.#watch = watchFrom(record.state)
    this.#monitor = monitor
    this.console = new ConsoleHub({ files: context.host.files, clock: context.clock, paths })
    this.agent = new GuestAgent({
      sockets: context.host.sockets,
      path: paths.agent,
      clock: context.clock,
      isListening: (signal) => this.#agentListens(signal),
    })
    this.exited = this.#awaitExit()
    void this.#follow()
    void this.#mindRoom()
  }

  get record(): RunRecord {
    return this.#record
  }
  get hasEnded(): boolean {
    return this.#hasEnded
  }
  /** As last told; `refresh` asks. */
  get state(): DriverState {
    return this.#watch.state
  }

  async execute(command: string, args: Parameters<QmpClient['execute']>[1] = {}, options: QmpCallOptions = {}): Promise<unknown> {
    const monitor = await this.#open(options.signal)
    return await monitor.execute(command, args, options)
  }

  /** HMP, for what QMP cannot say. `line` is made of checked numbers and names only. */
  async human(line: string, options: QmpCallOptions = {}): Promise<string> {
    return textOf(await this.execute('human-monitor-command', { 'command-line': line }, options)) ?? ''
  }

  /** Asks QEMU, and tells a change that no event told. */
  async refresh(options: QmpCallOptions = {}): Promise<DriverState> {
    while (true) {
      const before = this.#eventCount
      const state = await this.#ask(options)
      // An answer that an event has overtaken is of before.
      if (before !== this.#eventCount) continue
      if (!this.#watch.saving && !(this.#watch.trying && state.kind === 'running')) this.#settle(state)
      break
    }
    if (this.#owesWord) this.#tell()
    return this.#watch.state
  }

  /** Never goes back, though the kernel's two counts that it is made of differ by up to 10 ms. */
  async usage(): Promise<{ cpuTimeNs: number; residentBytes: number } | null> {
    const now = await this.#context.host.processes.usage(this.process)
    if (!now) return null
    this.#cpuTimeNsMax = Math.max(this.#cpuTimeNsMax, now.cpuTimeNs)
    return { ...now, cpuTimeNs: this.#cpuTimeNsMax }
  }

  async runState(options: QmpCallOptions = {}): Promise<string> {
    return textOf(objectOf(await this.execute('query-status', {}, options))['status']) ?? 'unknown'
  }

  async #ask(options: QmpCallOptions): Promise<DriverState> {
    const status = await this.runState(options)
    if (status !== 'io-error') return stateOfRunState(status, this.#watch.hint, this.#watch.state)
    const state = stateOfDisks(await this.execute('query-block', {}, options))
    return waitsForRoom(state) && this.#record.held === true ? PAUSE_REQUESTED : state
  }

  /** Whether a guest that waits for room stays where it is; resolves when that is safe. */
  async hold(isHeld: boolean): Promise<void> {
    if ((this.#record.held ?? false) === isHeld) return
    this.#record = { ...this.#record, held: isHeld }
    await this.#write()
  }

  expectPause(): void {
    this.#watch = { ...this.#watch, hint: { kind: 'paused', cause: 'requested' } }
  }
  expectShutdown(): void {
    this.#watch = { ...this.#watch, shutdownAsked: true }
  }
  /** Somebody asked and got no answer: the state is told as soon as it is known, even when it is no news. */
  owe(): void {
    this.#owesWord = true
  }
  /** The end that comes now was asked for; `false`: it did not come, and one that comes later is not that one. */
  expectEnd(isExpected = true): void {
    this.#endAsked = isExpected
  }
  setSaving(saving: boolean): void {
    this.#watch = { ...this.#watch, saving, hint: null }
  }

  /** Told to `take` until the returned function is called. */
  onEvent(take: (event: QmpEvent) => void): () => void {
    this.#eventWaiters.add(take)
    return () => void this.#eventWaiters.delete(take)
  }

  /** Aborted when the guest that runs now is no more: it was reset, is off or has panicked, or its QEMU has ended. Ends with its user. */
  guestLife(what: string): { readonly signal: AbortSignal } & Disposable {
    const over = new AbortController()
    const end = (how: string): void => over.abort(new Fault('failed', `${what}: the guest ${how} meanwhile`))
    const endings: Readonly<Record<string, string>> = { RESET: 'was reset', GUEST_PANICKED: 'panicked', SHUTDOWN: 'powered off' }
    const stop = this.onEvent((event) => {
      // QEMU tells of a guest's reset as a shutdown first.
      const isReset = event.name === 'SHUTDOWN' && textOf(event.content['reason'])?.includes('reset') === true
      const how = isReset ? 'was reset' : endings[event.name]
      if (how !== undefined) end(how)
    })
    void this.exited.then(() => end('ended'))
    return { signal: over.signal, [Symbol.dispose]: stop }
  }

  /** The machine has other devices now; resolves when the record says so. */
  async setHardware(hardware: DomainHardware): Promise<void> {
    this.#record = { ...this.#record, hardware }
    await this.#write()
  }

  async setName(name: string): Promise<void> {
    this.#record = { ...this.#record, name }
    await this.#write()
  }

  /** Writes the record; resolves when it is safe. */
  async setPhase(phase: RunPhase): Promise<void> {
    this.#record = { ...this.#record, phase }
    await this.#write()
  }

  /** Ends watching; the process goes on. */
  release(): void {
    this.#letGo.abort(new Fault('aborted', 'the driver was closed'))
    this.console.close()
    this.agent.close()
    this.#monitor?.close()
  }

  /** Resolves when nothing is being written any more. */
  async settled(): Promise<void> {
    await this.#writing
  }

  #open(signal?: AbortSignal): Promise<QmpClient> {
    if (this.#monitor?.isOpen) return Promise.resolve(this.#monitor)
    if (this.#hasEnded) return Promise.reject(new Fault('unavailable', 'QEMU has ended'))
    if (this.#letGo.signal.aborted) return Promise.reject(new Fault('unavailable', 'the driver was closed'))
    this.#opening ??= this.#connect().finally(() => (this.#opening = null))
    if (!signal) return this.#opening
    const aborted = new Promise<never>((_, reject) =>
      signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
    )
    return Promise.race([this.#opening, aborted])
  }

  async #connect(): Promise<QmpClient> {
    const { host, clock, monitorLimit } = this.#context
    const socket = await host.sockets.connect(this.paths.qmp)
    const monitor = await QmpClient.open(socket, { clock, limit: monitorLimit, signal: this.#letGo.signal })
    this.#monitor = monitor
    return monitor
  }

  async #follow(): Promise<void> {
    const { clock, log } = this.#context
    let pauseMs = RECONNECT_FIRST_MS
    while (!this.#letGo.signal.aborted && !this.#hasEnded) {
      try {
        const monitor = await this.#open()
        // After the connection is up, so that no change can fall between the answer and the first event.
        void this.refresh().catch(() => {})
        pauseMs = RECONNECT_FIRST_MS
        for await (const event of monitor.events) this.#take(event)
      } catch (error) {
        if (this.#hasEnded || this.#letGo.signal.aborted) return
        log.debug('qemu.monitor.unreachable', { domain: this.id, reason: error instanceof Error ? error.message : String(error) })
      }
      await clock.sleep(millis(pauseMs), { signal: this.#letGo.signal }).catch(() => {})
      pauseMs = Math.min(pauseMs * 2, RECONNECT_LAST_MS)
    }
  }

  #take(event: QmpEvent): void {
    const { watch, report } = step(this.#watch, event)
    this.#eventCount += 1
    this.#watch = watch
    if (report === 'state') this.#tell()
    if (report === 'reset') {
      this.#context.report(this.id, 'reset', watch.state)
      // A machine that stood still is ready to run again after a reset, which QEMU tells nobody.
      if (watch.state.kind !== 'running') void this.refresh().catch(() => {})
    }
    for (const take of this.#eventWaiters) take(event)
  }

  #settle(state: DriverState): void {
    if (this.#hasEnded || sameState(this.#watch.state, state)) return
    this.#watch = { ...this.#watch, state, hint: null }
    this.#tell()
  }

  #tell(): void {
    this.#owesWord = false
    this.#context.report(this.id, 'state', this.#watch.state)
    this.#record = { ...this.#record, state: this.#watch.state }
    void this.#write()
    void this.#mindRoom()
  }

  /** As long as the guest waits for room. */
  async #mindRoom(): Promise<void> {
    const { clock, log, roomInterval, exclusive } = this.#context
    if (this.#isMindingRoom) return
    this.#isMindingRoom = true
    try {
      while (waitsForRoom(this.#watch.state) && !this.#hasEnded) {
        await clock.sleep(roomInterval, { signal: this.#letGo.signal })
        await exclusive(this.id, (signal) => this.#tryRoom(signal)).catch((error: unknown) =>
          log.debug('qemu.room.not_tried', { domain: this.id, reason: toFault(error).message }),
        )
      }
    } catch {
      // Let go of.
    } finally {
      this.#isMindingRoom = false
    }
  }

  async #tryRoom(signal: AbortSignal): Promise<void> {
    // What stands still behind a save says `postmigrate`: that is for whoever saved it to let go on.
    if (!waitsForRoom(await this.refresh({ signal })) || (await this.runState({ signal })) !== 'io-error') return
    const settled = new AbortController()
    const stopWatching = this.onEvent(({ name }) => name === 'STOP' && settled.abort())
    void this.exited.then(() => settled.abort())
    this.#watch = { ...this.#watch, trying: true, hint: null }
    try {
      await this.execute('cont', {}, { signal })
      await this.#context.clock.sleep(ROOM_PROOF, { signal: AbortSignal.any([signal, settled.signal]) }).catch(() => {})
    } finally {
      stopWatching()
      this.#watch = { ...this.#watch, trying: false }
    }
    if (!this.#hasEnded) await this.refresh({ signal })
  }

  /** One write at a time; each writes what the record is by then. Its failure is logged: the state itself is not lost by it. */
  #write(): Promise<void> {
    const { host, log } = this.#context
    const write = this.#writing.then(() => writeRecord(host.files, this.paths.record, this.#record))
    this.#writing = write.catch((error: unknown) =>
      log.warn('qemu.record.not_written', { domain: this.id, reason: error instanceof Error ? error.message : String(error) }),
    )
    return write
  }

  async #agentListens(signal: AbortSignal): Promise<boolean> {
    const answer = await this.execute('query-chardev', {}, { signal })
    return listOf(answer).some(
      (entry) => isObject(entry) && entry['label'] === 'agent0-channel' && entry['frontend-open'] === true,
    )
  }

  async #awaitExit(): Promise<void> {
    const { host } = this.#context
    try {
      await host.processes.waitExit(this.process, { signal: this.#letGo.signal })
    } catch {
      return
    }
    const wasSaved = this.#record.phase.kind === 'saved'
    const isExpected = this.#endAsked || wasSaved
    const byGuest = !isExpected && (await endedByGuest(host, this.paths, this.#record).catch(() => false))
    const detail =
      isExpected || byGuest ? null : ((await lastWords(host, this.paths.stderr).catch(() => null)) ?? 'QEMU ended without a word')
    this.#hasEnded = true
    this.console.close()
    this.agent.close()
    this.#monitor?.close()
    const state: DriverState = { kind: 'gone', cause: isExpected ? 'requested' : byGuest ? 'guest' : 'process-failed', detail }
    this.#watch = watchFrom(state)
    this.#record = { ...this.#record, state, phase: wasSaved ? this.#record.phase : { kind: 'gone' } }
    if (!this.#endAsked) await this.#write().catch(() => {})
    this.#context.ended(this)
    this.#context.report(this.id, 'state', state)
  }
}

/**
 * What the conformance suite has shown of a driver, operation by operation. The operations are the port's own methods: which of them a promise
 * has used is seen, not written down, so that none can be left out.
 */
import { Fault } from '@typevisor/base'
import type { DomainDriver, DriverCapabilities } from './ports.ts'
import { describeConformance, type DriverWorld } from './conformance.ts'

/** What a promise may say of itself while it is tried. */
export interface PromiseContext {
  /** It is left out, and why. */
  skip(reason: string): void
  diagnostic(message: string): void
}

/** The part of a test runner that the suite needs; Node's own has it. */
export interface ConformanceRunner {
  describe(title: string, work: () => void): void
  before(work: () => Promise<void>): void
  after(work: () => Promise<void>): void
  test(title: string, work: (t: PromiseContext) => Promise<void> | void): void
  /** Whoever counts calls puts itself in front of the driver. */
  observed(driver: DomainDriver): DomainDriver
}

/** The port's methods in the order of the table. A method that is missing here does not compile. */
export const DRIVER_OPERATIONS = {
  capabilities: 'say what it can do',
  planHardware: 'plan the hardware',
  create: 'create, paused',
  unpause: 'unpause',
  pause: 'pause',
  requestShutdown: 'ask to power off',
  reset: 'reset',
  destroy: 'destroy',
  save: 'save to a file',
  restore: 'restore from it',
  checkSave: 'check a save',
  receive: 'receive what migrates here',
  takeOver: 'let it go on here',
  migrateTo: 'migrate',
  takeBack: 'take it back',
  sendRest: 'send what it lacks behind it',
  receiving: 'take up its arrival',
  correctClock: "set the guest's clock",
  snapshotMemory: 'snapshot memory',
  keepFirmware: "keep firmware's memory",
  putFirmwareBack: 'put it back',
  freeze: 'freeze file systems',
  thaw: 'thaw them',
  state: 'say its state',
  adopt: 'adopt what runs',
  events: 'tell of events',
  applySettings: 'set while it runs',
  planDevice: 'plan a device',
  attach: 'attach a device',
  detach: 'detach it',
  attachedDevices: 'say what is attached',
  changeMedium: 'change a medium',
  resizeDisk: 'grow a disk',
  forwards: 'say its host ports',
  statistics: 'count',
  openConsole: 'serial console',
  readConsole: 'kept console output',
  openVnc: 'screen',
  exec: 'run in the guest',
  addresses: 'addresses of the guest',
  readGuestFile: 'read a file of the guest',
  writeGuestFile: 'write one',
  setGuestPassword: 'set a password in the guest',
  screenshot: 'picture of the screen',
  sendKeys: 'press keys',
  dumpCore: 'core dump',
  rename: 'rename',
  forget: 'forget',
  close: 'let go of all',
} as const satisfies Record<Exclude<keyof DomainDriver, 'name'>, string>

export type DriverOperation = keyof typeof DRIVER_OPERATIONS
const isOperation = (name: string | symbol): name is DriverOperation =>
  typeof name === 'string' && Object.hasOwn(DRIVER_OPERATIONS, name)

/** `yes`: each promise that uses it holds. `refused`: it is refused as `unsupported`, each time. `no`: a promise is broken. */
export type OperationResult =
  | { readonly kind: 'yes'; readonly promiseCount: number }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'no'; readonly broken: readonly string[] }
  | { readonly kind: 'untried' }

interface Use {
  readonly promise: string
  readonly isBroken: boolean
  /** null: at least one call was not refused. */
  readonly refusal: string | null
}

export class CallRecord {
  readonly #uses = new Map<DriverOperation, Use[]>()
  /** As the driver last said it. */
  capabilities: DriverCapabilities | null = null
  /** Since the last promise: what was called, and with which refusal. What prepares the suite counts for the first one. */
  #now = new Map<DriverOperation, (string | null)[]>()

  observed(driver: DomainDriver): DomainDriver {
    const note = (operation: DriverOperation, refusal: string | null): void => {
      this.#now.set(operation, [...(this.#now.get(operation) ?? []), refusal])
    }
    const asked = (can: DriverCapabilities): void => void (this.capabilities = can)
    return new Proxy(driver, {
      get(target, key) {
        const member: unknown = Reflect.get(target, key, target)
        if (typeof member !== 'function' || !isOperation(key)) return member
        return (...args: unknown[]): unknown => {
          const answer: unknown = Reflect.apply(member, target, args)
          if (!(answer instanceof Promise)) {
            note(key, null)
            return answer
          }
          void answer.then(
            (value: unknown) => {
              note(key, null)
              if (key === 'capabilities') asked(value as DriverCapabilities)
            },
            (error: unknown) => note(key, error instanceof Fault && error.code === 'unsupported' ? error.message : null),
          )
          return answer
        }
      },
    })
  }

  /** Runs one promise. @throws what it throws. */
  async during(promise: string, work: () => Promise<void> | void): Promise<void> {
    let isBroken = true
    try {
      await work()
      isBroken = false
    } finally {
      for (const [operation, refusals] of this.#now) {
        const refusal = refusals.every((each) => each !== null) ? (refusals[0] ?? null) : null
        this.#uses.set(operation, [...(this.#uses.get(operation) ?? []), { promise, isBroken, refusal }])
      }
      this.#now = new Map()
    }
  }

  result(operation: DriverOperation): OperationResult {
    const uses = this.#uses.get(operation) ?? []
    const broken = uses.filter(({ isBroken }) => isBroken).map(({ promise }) => promise)
    if (broken.length > 0) return { kind: 'no', broken }
    const done = uses.filter(({ refusal }) => refusal === null)
    if (done.length > 0) return { kind: 'yes', promiseCount: done.length }
    const [refused] = uses
    return refused ? { kind: 'refused', reason: refused.refusal ?? '' } : { kind: 'untried' }
  }

  results(): Readonly<Record<DriverOperation, OperationResult>> {
    return Object.fromEntries(
      Object.keys(DRIVER_OPERATIONS).map((name) => [name, this.result(name as DriverOperation)]),
    ) as Record<DriverOperation, OperationResult>
  }
}

export interface PromiseOutcome {
  readonly title: string
  readonly kind: 'kept' | 'broken' | 'skipped'
  /** What broke it, or why it was left out. */
  readonly detail: string | null
  readonly tookMs: number
}

export interface ConformanceReport {
  /** null: it did not come to be asked. */
  readonly capabilities: DriverCapabilities | null
  readonly promises: readonly PromiseOutcome[]
  readonly operations: Readonly<Record<DriverOperation, OperationResult>>
}

export interface ConformanceOptions {
  readonly now: () => number
  readonly progress?: (done: PromiseOutcome, at: { readonly count: number; readonly total: number }) => void
  readonly signal?: AbortSignal | undefined
}

/** Runs the suite with no test runner around it. @throws what the world throws when it cannot be made; a broken promise is a result. */
export async function checkConformance(
  name: string,
  makeWorld: () => Promise<DriverWorld>,
  { now, progress, signal }: ConformanceOptions,
): Promise<ConformanceReport> {
  const record = new CallRecord()
  const promises: { title: string; work: Parameters<ConformanceRunner['test']>[1] }[] = []
  const first: (() => Promise<void>)[] = []
  const last: (() => Promise<void>)[] = []
  describeConformance(name, makeWorld, {
    describe: (_title, work) => work(),
    before: (work) => void first.push(work),
    after: (work) => void last.push(work),
    test: (title, work) => void promises.push({ title, work }),
    observed: (driver) => record.observed(driver),
  })
  const outcomes: PromiseOutcome[] = []
  for (const work of first) await work()
  try {
    for (const { title, work } of promises) {
      signal?.throwIfAborted()
      const began = now()
      let skipped: string | null = null
      const broken = await record
        .during(title, () => work({ skip: (reason) => void (skipped = reason), diagnostic: () => {} }))
        .then(() => null)
        .catch((error: unknown) => (error instanceof Error ? error.message : String(error)))
      const kind = broken === null ? (skipped === null ? 'kept' : 'skipped') : 'broken'
      const outcome: PromiseOutcome = { title, kind, detail: broken ?? skipped, tookMs: now() - began }
      outcomes.push(outcome)
      progress?.(outcome, { count: outcomes.length, total: promises.length })
    }
  } finally {
    for (const work of last) await work()
  }
  return { capabilities: record.capabilities, promises: outcomes, operations: record.results() }
}

const cellOf = (result: OperationResult): string => {
  switch (result.kind) {
    case 'yes':
      return 'yes'
    case 'refused':
      return 'refused'
    case 'no':
      return 'NO'
    default:
      return 'not tried'
  }
}

/** Driver by driver, operation by operation, as a table of Markdown; what is refused says why below. */
export function conformanceTable(columns: Readonly<Record<string, Readonly<Record<DriverOperation, OperationResult>>>>): string {
  const names = Object.keys(columns)
  const rows = Object.entries(DRIVER_OPERATIONS).map(([operation, title]) => {
    const cells = names.map((name) => cellOf(columns[name]?.[operation as DriverOperation] ?? { kind: 'untried' }))
    return `| ${title} | \`${operation}\` | ${cells.join(' | ')} |`
  })
  const reasons = names.flatMap((name) =>
    Object.entries(columns[name] ?? {}).flatMap(([operation, result]) =>
      result.kind === 'refused' ? [`- ${name}, \`${operation}\`: ${result.reason}`] : [],
    ),
  )
  const head = [`| operation | method | ${names.join(' | ')} |`, `| --- | --- | ${names.map(() => '---').join(' | ')} |`]
  return [...head, ...rows, ...(reasons.length > 0 ? ['', ...reasons] : [])].join('\n')
}

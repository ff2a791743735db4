/**
 * Follows a long operation to its end. Who waits is told what for: after a moment on which host, and how to end it; at Ctrl-C that it goes
 * on without them.
 *
 *   request (a quarter of a second) --> operation --> asked for again, each time for a second --> reply
 *                                                        |-- 2 s, its host is away: said once
 *                                                        `-- Ctrl-C: said, exit code 130; a second one ends at once
 */
import { Fault, formatBytes, toFault } from '@typevisor/base'
import type { Reply } from '@typevisor/api'
import type { Client } from '@typevisor/api/client'
import { EXIT, exitCodeOf } from './exit-codes.ts'
import type { Own } from './own-flags.ts'
import { Progress } from './progress.ts'
import type { Terminal } from './terminal.ts'

type Accepted = Reply<'instance.create'>
/** A server of an older version does not say what it waits for. */
type Operation = Accepted['operation'] & { readonly waitsFor?: string | null }

/** Until the operation's id is known nobody can be told of it: the first answer must not be long in coming. */
export const FIRST_WAIT_SECONDS = 0.25
const TELL_AFTER_MS = 2000
const ASK_AGAIN_MS = 5000

interface Interrupt extends Disposable {
  /** Aborted by it. */
  readonly signal: AbortSignal
}

/** The first Ctrl-C is ours to answer; the second does what it always does. */
export function interruptible(): Interrupt {
  const control = new AbortController()
  const onSignal = () => {
    if (process.stderr.isTTY) process.stderr.write('\n') // behind the ^C that a terminal echoes
    control.abort(new Fault('aborted', 'Ctrl-C'))
  }
  process.once('SIGINT', onSignal)
  return { signal: control.signal, [Symbol.dispose]: () => process.off('SIGINT', onSignal) }
}

/** null when the signal came first. @throws what the work throws, unless by the signal. */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T | null> {
  try {
    return await work
  } catch (error) {
    if (signal.aborted) return null
    throw error
  }
}

const running = ({ state }: Operation): boolean => state === 'running' || state === 'undoing'

export interface FollowOptions {
  readonly client: Client
  /** `instance.create`. */
  readonly name: string
  /** What it is about, as the user named it. */
  readonly target: string
  readonly own: Own
  readonly terminal: Terminal
  readonly json: boolean
}

/** Sends what `begin` sends, and follows what it begins; answers the exit code. */
export async function follow(begin: () => Promise<Accepted>, options: FollowOptions): Promise<number> {
  const { client, name, own, terminal, json } = options
  using interrupt = interruptible()
  const accepted = await begin()
  const target = accepted.instance?.name ?? options.target
  const title = [name.replace('instance.', '').replace('.', ' '), target].join(' ').trim()
  let operation: Operation = accepted.operation
  if (!own.noWait) {
    const ended = await untilEnded(operation, accepted.instance?.id, title, interrupt.signal, options).catch((error: unknown) => {
      throw stillUnderWay(error, accepted.operation.id)
    })
    if (ended === null) return EXIT.interrupted
    operation = ended
  }
  if (operation.fault && operation.state !== 'running') {
    const { fault } = operation
    if (json) terminal.say(JSON.stringify({ error: fault, operation }))
    else terminal.say(`typevisor: ${title}: ${fault.message}${operation.state === 'stuck' ? stuckWords(operation.id) : ''}`)
    return exitCodeOf(fault.code as never)
  }
  const instance = accepted.instance ? await instanceOrNull(client, accepted.instance.id) : null
  if (instance && own.waitFor !== null && own.waitFor !== 'done') {
    const { waitForGuest } = await import('./commands/wait.ts')
    const up = waitForGuest(client, instance.id, own.waitFor, interrupt.signal).then(() => true)
    if ((await unlessAborted(up, interrupt.signal)) === null) {
      tell(options, operation.id, `${instance.name} goes on booting; \`typevisor instance console ${instance.name}\` shows it`)
      return EXIT.interrupted
    }
  }
  if (json) terminal.out(JSON.stringify({ operation, instance }, null, 2))
  else if (own.noWait && running(operation))
    terminal.out(`${title}: under way; \`typevisor operation get ${operation.id}\` shows how it goes on`)
  else if (instance)
    terminal.out(`${instance.name}: ${instance.state.kind}${name === 'instance.dump' ? dumpWords(instance) : ''}`)
  else terminal.out(name.startsWith('instance.') ? `${target}: gone` : `${title}: ${operation.state}`)
  return EXIT.ok
}

/** A server of an older version does not say where it is. */
function dumpWords({ dump, host }: Partial<Pick<Reply<'instance.get'>, 'dump' | 'host'>>): string {
  return dump ? `; its memory: ${dump.path} on ${host} (${dump.format}, ${formatBytes(dump.sizeBytes)})` : ''
}

/** Who loses the server while waiting has not lost the operation. */
function stillUnderWay(error: unknown, operation: string): Fault {
  const { code, message } = toFault(error)
  return new Fault(code, `${message}; operation ${operation} was begun and goes on with the server`, { cause: error })
}

/** What is no error and no reply, to who waits. */
function tell({ terminal, json }: FollowOptions, operation: string, text: string): void {
  terminal.say(json ? JSON.stringify({ notice: text, operation }) : `typevisor: ${text}`)
}

/** null: interrupted, and said so. */
async function untilEnded(
  first: Operation,
  instance: string | undefined,
  title: string,
  signal: AbortSignal,
  options: FollowOptions,
): Promise<Operation | null> {
  const { client } = options
  const begin = performance.now()
  const progress = new Progress(title)
  let operation = first
  let lookAt = begin + TELL_AFTER_MS
  while (running(operation)) {
    if (signal.aborted) {
      progress.clear()
      tell(
        options,
        operation.id,
        `${title} goes on: operation ${operation.id}. \`typevisor operation get ${operation.id} --wait 60\` waits for it, \`typevisor operation cancel ${operation.id}\` ends it`,
      )
      return null
    }
    progress.show(operation.step ?? 'waiting', operation.progress)
    const asked = client.call('operation.get', { params: { operation: operation.id }, query: { wait: 1 } }, { signal })
    const next = await unlessAborted(asked, signal)
    if (next === null) continue
    operation = next
    if (!running(operation) || performance.now() < lookAt) continue
    lookAt = performance.now() + ASK_AGAIN_MS
    const awaited = await waitedFor(client, operation, instance)
    if (awaited === null) continue
    lookAt = Number.POSITIVE_INFINITY // once
    progress.clear()
    tell(
      options,
      operation.id,
      `${title} waits for ${awaited}, and goes on by itself after that: operation ${operation.id}. \`typevisor operation cancel ${operation.id}\` ends it`,
    )
  }
  progress.clear()
  return operation
}

/** `host rack-2, which is not connected`. */
async function waitedFor(client: Client, operation: Operation, instance: string | undefined): Promise<string | null> {
  if (operation.waitsFor !== undefined) return operation.waitsFor
  if (instance === undefined) return null
  const row = await instanceOrNull(client, instance)
  return row && row.host !== null && !row.hostConnected ? `host ${row.host}, which is not connected` : null
}

async function instanceOrNull(client: Client, id: string): Promise<Reply<'instance.get'> | null> {
  try {
    return await client.call('instance.get', { params: { instance: id } })
  } catch (error) {
    if (toFault(error).code === 'not_found') return null
    throw error
  }
}

const stuckWords = (id: string): string =>
  `; what it did could not be undone: \`typevisor operation retry ${id}\` tries again, \`typevisor operation abandon ${id}\` lets it go`

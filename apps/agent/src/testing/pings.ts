/**
 * A client that asks a guest 20 times a second, through whichever ports of hosts lead to it, in a thread of its own: what hosts do in this
 * process does not make it late. Each question has a number, each answer that number and the guest's own count.
 *
 *   every 50 ms: "17\n" --TCP--> each port that is known --forward--> guest --> "17 4711\n"
 *
 * A port that is not answered, or closed, is asked for again at the next tick. A question goes to all ports; that of two hosts one alone
 * answers is for whoever reads the report.
 */
import { connect, type Socket } from 'node:net'
import { parentPort, Worker, workerData } from 'node:worker_threads'

export const PING_INTERVAL_MS = 50
const CONNECT_LIMIT_MS = 500
const ROLE = 'typevisor-pings'

export interface Answer {
  readonly question: number
  readonly port: number
  readonly atMs: number
  /** Of the guest. */
  readonly count: number
}

export interface PingReport {
  /** When each question was asked, by its number. */
  readonly askedMs: readonly number[]
  /** As they came. */
  readonly answers: readonly Answer[]
}

export interface Pings {
  /** The ports that lead to the guest, as far as is known. */
  to(ports: readonly number[]): void
  /** Whether an answer has come by way of this port. */
  hasAnswered(port: number): boolean
  end(): Promise<PingReport>
}

export function startPings(): Pings {
  const worker = new Worker(new URL(import.meta.url), { workerData: ROLE })
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
  const tell = (ports: readonly number[] | null): void => worker.postMessage({ ports })
  const answered = new Set<number>()
  const report = Promise.withResolvers<PingReport>()
  worker.on('message', (said: number | PingReport) => {
    if (typeof said === 'number') answered.add(said)
    else report.resolve(said)
  })
  worker.on('error', report.reject)
  return {
    to: tell,
    hasAnswered: (port) => answered.has(port),
    async end() {
      tell(null)
      const found = await report.promise
      await worker.terminate()
      return found
    },
  }
}

/** One question, by a connection of its own; null: no answer in time. */
export async function ask(port: number, limitMs: number): Promise<number | null> {
  const socket = connect(port, '127.0.0.1')
  const limit = setTimeout(() => socket.destroy(), limitMs)
  try {
    let said = ''
    socket.write('0\n')
    for await (const part of socket) {
      said += String(part)
      const answer = /^0 (\d+)\n/.exec(said)
      if (answer) return Number(answer[1])
    }
  } catch {
    // Refused or cut: nobody has answered.
  } finally {
    clearTimeout(limit)
    socket.destroy()
  }
  return null
}

function serve(port: NonNullable<typeof parentPort>): void {
  const doors = new Map<number, Socket>()
  const askedMs: number[] = []
  const answers: Answer[] = []
  const answered = new Set<number>()
  const open = (to: number): void => {
    const socket = connect(to, '127.0.0.1')
    doors.set(to, socket)
    const limit = setTimeout(() => socket.readyState === 'opening' && socket.destroy(), CONNECT_LIMIT_MS)
    let rest = ''
    socket.on('data', (part) => {
      const atMs = performance.now()
      const lines = `${rest}${String(part)}`.split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) {
        const [question = '', count = ''] = line.split(' ')
        answers.push({ question: Number(question), count: Number(count), port: to, atMs })
        if (!answered.has(to)) port.postMessage(to)
        answered.add(to)
      }
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      clearTimeout(limit)
      if (doors.get(to) === socket) doors.delete(to)
    })
  }
  let ports: readonly number[] = []
  const timer = setInterval(() => {
    for (const to of ports) if (!doors.has(to)) open(to)
    const question = askedMs.push(performance.now()) - 1
    for (const socket of doors.values()) if (socket.readyState === 'open') socket.write(`${question}\n`)
  }, PING_INTERVAL_MS)
  port.on('message', (message: { readonly ports: readonly number[] | null }) => {
    if (message.ports !== null) {
      ports = message.ports
      return
    }
    clearInterval(timer)
    for (const socket of doors.values()) socket.destroy()
    port.postMessage({ askedMs, answers } satisfies PingReport)
  })
}

if (workerData === ROLE && parentPort !== null) serve(parentPort)

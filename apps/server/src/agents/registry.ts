/** The agents that are connected now. Nothing is decided from it but where a command goes: what should be is in the database. */
import { Fault, millis, type Clock } from '@typevisor/base'
import type { AgentPort } from '@typevisor/api/agent-wire'
import type { HostSync } from './host-sync.ts'

/** A connection of a host's agent, for as long as it lasts. */
export interface HostConnection {
  /** Of the server's own process: no other takes its place. */
  readonly own: boolean
  end(reason: Fault): void
  /** Never rejects. */
  readonly ended: Promise<void>
}

export class AgentRegistry {
  readonly clock: Clock
  /** When the server began to take agents in, by the monotonic clock. */
  readonly since: number
  readonly #seen = new Set<string>()
  readonly #agents = new Map<string, AgentPort>()
  readonly #syncs = new Map<AgentPort, Pick<HostSync, 'takenIn'>>()
  readonly #connections = new Map<string, HostConnection>()
  readonly #waiters = new Map<string, Set<(agent: AgentPort) => void>>()

  constructor(clock: Clock) {
    this.clock = clock
    this.since = clock.monotonic()
  }

  /**
   * One host, one connection: the older one is ended, and has ended when this resolves.
   * @throws Fault `conflict` when the host is the server's own.
   */
  async take(name: string, connection: HostConnection): Promise<void> {
    const older = this.#connections.get(name)
    if (older?.own && !connection.own)
      throw new Fault('conflict', `host ${name}: this server runs it itself; another host wants another name`)
    this.#connections.set(name, connection)
    void connection.ended.then(() => {
      if (this.#connections.get(name) === connection) this.#connections.delete(name)
    })
    older?.end(new Fault('conflict', `host ${name}: a newer connection took the place of this one`))
    await older?.ended
  }

  /** Ends the host's connection, from outside; the server's own agent is not joined by a token and stays. */
  async cut(name: string, reason: Fault): Promise<void> {
    const connection = this.#connections.get(name)
    if (!connection || connection.own) return
    connection.end(reason)
    await connection.ended
  }

  attach(name: string, agent: AgentPort, sync: Pick<HostSync, 'takenIn'>): void {
    this.#agents.set(name, agent)
    this.#syncs.set(agent, sync)
    this.#seen.add(name)
    for (const wake of this.#waiters.get(name) ?? []) wake(agent)
    this.#waiters.delete(name)
  }

  detach(name: string, agent: AgentPort): void {
    if (this.#agents.get(name) === agent) this.#agents.delete(name)
    this.#syncs.delete(agent)
  }

  /**
   * Waits until what `agent` said of its domains up to `sequence` is in the rows and told as events; no longer than `limitMs`, nor than the
   * agent is connected.
   */
  async takenIn(agent: AgentPort, sequence: number, limitMs: number, signal: AbortSignal): Promise<void> {
    const sync = this.#syncs.get(agent)
    if (!sync) return
    const done = new AbortController()
    const limit = this.clock.sleep(millis(limitMs), { signal: AbortSignal.any([done.signal, signal]) })
    try {
      await Promise.race([sync.takenIn(sequence), limit])
    } finally {
      done.abort()
      await limit.catch(() => {})
    }
  }

  /** Whether a connection of the host is there, be it only on its way in or out. */
  has(name: string): boolean {
    return this.#connections.has(name)
  }
  /** Whether it was connected since the server began. */
  wasHere(name: string): boolean {
    return this.#seen.has(name)
  }
  get(name: string): AgentPort | null {
    return this.#agents.get(name) ?? null
  }
  names(): string[] {
    return [...this.#agents.keys()]
  }

  /** The host's agent, waited for up to `limitMs`. @throws Fault `unavailable` when it does not come. */
  async need(name: string, limitMs: number, signal: AbortSignal): Promise<AgentPort> {
    const agent = this.#agents.get(name)
    if (agent) return agent
    const away = new Fault('unavailable', `host ${name}: its agent is not connected`)
    if (limitMs <= 0) throw away
    const done = new AbortController()
    const waiters = this.#waiters.get(name) ?? new Set()
    this.#waiters.set(name, waiters)
    let wake: ((agent: AgentPort) => void) | undefined
    try {
      return await Promise.race([
        new Promise<AgentPort>((resolve) => waiters.add((wake = resolve))),
        this.clock.sleep(millis(limitMs), { signal: AbortSignal.any([done.signal, signal]) }).then(() => {
          throw away
        }),
      ])
    } finally {
      done.abort()
      if (wake) waiters.delete(wake)
    }
  }
}

/**
 * The one stream of events of a tab: keeps it open, goes on after the last event seen, and tells the answers that an event makes
 * stale. A hidden tab lets go of it after a minute (a browser gives an origin six connections for all its tabs) and catches up when
 * it is looked at again.
 */
import { Fault } from '@typevisor/base'
import { useQueryClient, type QueryClient } from '@tanstack/react-query'
import { createContext, useContext, useEffect, useMemo, useState, type ReactNode } from 'react'
import { client } from './client.ts'
import { isStale, type PlatformEvent, type QueryKey } from './live.ts'

export type Connection = 'connecting' | 'live' | 'lost' | 'resting'

const HIDDEN_REST_MS = 60_000
/** A burst of events (a thousand instances made at once) asks for a list twice a second, not a thousand times. */
const GATHER_MS = 300
/** A refusal within this time is not worth a banner: servers are restarted. */
const PATIENCE_MS = 1_200
const REFUSED_MS = 5_000

export class EventSourceLoop {
  readonly #queryClient: QueryClient
  readonly #onConnection: (connection: Connection) => void
  #stop = new AbortController()
  #attempt = new AbortController()
  #after: string | undefined
  #gathered: PlatformEvent[] = []
  #timer: ReturnType<typeof setTimeout> | null = null
  #patience: ReturnType<typeof setTimeout> | null = null
  #everOpen = false

  constructor(queryClient: QueryClient, onConnection: (connection: Connection) => void) {
    this.#queryClient = queryClient
    this.#onConnection = onConnection
  }

  start(): void {
    this.#stop = new AbortController()
    void this.#run(this.#stop.signal)
  }

  stop(): void {
    this.#stop.abort()
    this.#calm()
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }

  /** Cuts a wait short; a stream that flows is left alone. */
  retry(): void {
    if (this.#patience !== null) this.#attempt.abort()
  }

  async #run(signal: AbortSignal): Promise<void> {
    this.#worry()
    while (!signal.aborted) {
      this.#attempt = new AbortController()
      try {
        const options = {
          after: this.#after,
          signal: AbortSignal.any([signal, this.#attempt.signal]),
          onState: (state: { kind: 'open' | 'waiting' }) => (state.kind === 'open' ? this.#opened() : this.#worry()),
        }
        for await (const event of client.events(options)) this.#take(event)
      } catch (error) {
        if (error instanceof Fault && error.code === 'unauthenticated') {
          this.#calm()
          void this.#queryClient.invalidateQueries({ queryKey: ['session.get'] })
          return
        }
        // A place that the server no longer keeps: begin from now, and ask for everything again.
        this.#after = undefined
        this.#worry()
        await new Promise((resolve) => setTimeout(resolve, REFUSED_MS))
      }
    }
  }

  #worry(): void {
    this.#patience ??= setTimeout(() => !this.#stop.signal.aborted && this.#onConnection('lost'), PATIENCE_MS)
  }

  #calm(): void {
    if (this.#patience !== null) clearTimeout(this.#patience)
    this.#patience = null
  }

  #opened(): void {
    this.#calm()
    this.#onConnection('live')
    // What was answered before the stream stood may already be old; with a place to go on from, the events themselves say so.
    const since = this.#everOpen && this.#after !== undefined ? null : Date.now()
    this.#everOpen = true
    void this.#queryClient.invalidateQueries({
      predicate: ({ state, queryKey }) =>
        queryKey[0] !== 'session.get' &&
        (state.status === 'error' || (since !== null && state.dataUpdatedAt > 0 && state.dataUpdatedAt < since)),
    })
  }

  #take(event: PlatformEvent): void {
    this.#after = event.sequence
    this.#gathered.push(event)
    this.#timer ??= setTimeout(() => this.#flush(), GATHER_MS)
  }

  #flush(): void {
    this.#timer = null
    const gathered = this.#gathered.splice(0)
    void this.#queryClient.invalidateQueries({
      predicate: ({ queryKey }) => gathered.some((event) => isStale(queryKey as unknown as QueryKey, event)),
    })
  }
}

interface Live {
  readonly connection: Connection
  readonly retry: () => void
}

const LiveContext = createContext<Live>({ connection: 'connecting', retry: () => undefined })
export const useLive = (): Live => useContext(LiveContext)

export function LiveProvider({ children }: { readonly children: ReactNode }) {
  const queryClient = useQueryClient()
  const [connection, setConnection] = useState<Connection>('connecting')
  const loop = useMemo(() => new EventSourceLoop(queryClient, setConnection), [queryClient])

  useEffect(() => {
    let rest: ReturnType<typeof setTimeout> | null = null
    let resting = false
    loop.start()
    const onVisibility = () => {
      if (rest !== null) clearTimeout(rest)
      rest = null
      if (document.visibilityState === 'hidden') {
        rest = setTimeout(() => {
          resting = true
          loop.stop()
          setConnection('resting')
        }, HIDDEN_REST_MS)
      } else if (resting) {
        resting = false
        loop.start()
      } else loop.retry()
    }
    const onOnline = () => loop.retry()
    document.addEventListener('visibilitychange', onVisibility)
    window.addEventListener('online', onOnline)
    return () => {
      document.removeEventListener('visibilitychange', onVisibility)
      window.removeEventListener('online', onOnline)
      if (rest !== null) clearTimeout(rest)
      loop.stop()
    }
  }, [loop])

  const live = useMemo(() => ({ connection, retry: () => loop.retry() }), [connection, loop])
  return <LiveContext value={live}>{children}</LiveContext>
}

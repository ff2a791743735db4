/**
 * One journal shared by several owners of state, each with its own section: the sagas of an agent, its domain definitions, the
 * highest fences that it has seen, the events not yet delivered. What they change without an `await` in between is safe together
 * or not at all, so a saga's `call` effect that sets a map entry is committed with the step, exactly once.
 *
 *   const state = stateFile({ disk, name: 'agent.journal', clock, log })
 *   const domains = state.map<DomainRecord>('domains')
 *   const store = fileSagaStore({ state, clock })
 *   await state.open()
 *   await domains.set(id, record)
 */
import { assert, Fault, type Clock, type Disk, type Json, type Log } from '@typevisor/base'
import { jsonCodec, openJournal, type Journal } from './journal.ts'

export interface StateSection<R extends Json> {
  /** Brings the state of this section forward by one record; called for each at `open`. */
  readonly replay: (record: R) => void
  /** Records that lead to the state as it is now. */
  readonly snapshot: () => Iterable<R>
}

export interface StateFile {
  /** Joins before `open`; names are kept in the file. The answer appends records to this section. */
  section<R extends Json>(name: string, section: StateSection<R>): (records: readonly R[]) => Promise<void>
  map<V extends Json>(name: string): DurableMap<V>
  /** Reads the file into the sections. @throws Fault `failed` when committed records are damaged or unknown. */
  open(): Promise<void>
  compact(): Promise<void>
  close(): Promise<void>
}

/** A map that is in memory at once and on disk when the promise resolves. */
export interface DurableMap<V extends Json> extends Iterable<[string, V]> {
  readonly size: number
  get(key: string): V | undefined
  has(key: string): boolean
  set(key: string, value: V): Promise<void>
  delete(key: string): Promise<void>
  keys(): Iterable<string>
  values(): Iterable<V>
}

export interface StateFileOptions {
  readonly disk: Disk
  readonly name: string
  readonly clock: Clock
  readonly log: Log
  readonly compactBytesMin?: number
}

interface Tagged {
  readonly section: string
  readonly record: Json
}

export function stateFile(options: StateFileOptions): StateFile {
  const { name } = options
  const sections = new Map<string, StateSection<Json>>()
  let journal: Journal<Tagged> | undefined

  const section = <R extends Json>(sectionName: string, owner: StateSection<R>) => {
    assert(!journal && !sections.has(sectionName), `section ${sectionName} joins ${name} once, and before it is opened`)
    // Only `owner` appends to its section, so what is replayed to it is of its own record type.
    sections.set(sectionName, owner as unknown as StateSection<Json>)
    return async (records: readonly R[]) => {
      if (!journal) throw new Fault('unavailable', `state file ${name} is not open`)
      await journal.append(records.map((record) => ({ section: sectionName, record })))
    }
  }

  return {
    section,
    map: <V extends Json>(mapName: string) => durableMap<V>((owner) => section(mapName, owner)),
    async open() {
      journal = await openJournal<Tagged>({
        ...options,
        codec: jsonCodec(),
        replay: (tagged) => {
          const owner = sections.get(tagged.section)
          if (!owner) throw new Fault('failed', `open state file ${name}: section ${tagged.section} is unknown to this version`)
          owner.replay(tagged.record)
        },
        *snapshot() {
          for (const [sectionName, owner] of sections)
            for (const record of owner.snapshot()) yield { section: sectionName, record }
        },
      })
    },
    compact: async () => journal?.compact(),
    close: async () => journal?.close(),
  }
}

type MapRecord<V extends Json> = readonly ['set', string, V] | readonly ['delete', string]

function durableMap<V extends Json>(
  join: (section: StateSection<MapRecord<V>>) => (records: readonly MapRecord<V>[]) => Promise<void>,
): DurableMap<V> {
  const entries = new Map<string, V>()
  const apply = (record: MapRecord<V>) => {
    if (record[0] === 'set') entries.set(record[1], record[2])
    else entries.delete(record[1])
  }
  const append = join({
    replay: apply,
    *snapshot() {
      for (const [key, value] of entries) yield ['set', key, value]
    },
  })
  const change = (record: MapRecord<V>): Promise<void> => {
    apply(record)
    const safe = append([record])
    // An effect of a saga does not wait: the commit that it belongs to does.
    safe.catch(() => {})
    return safe
  }
  return {
    get size() {
      return entries.size
    },
    get: (key) => entries.get(key),
    has: (key) => entries.has(key),
    set: (key, value) => change(['set', key, value]),
    delete: async (key) => {
      if (entries.has(key)) await change(['delete', key])
    },
    keys: () => entries.keys(),
    values: () => entries.values(),
    [Symbol.iterator]: () => entries[Symbol.iterator](),
  }
}

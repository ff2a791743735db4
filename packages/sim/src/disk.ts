import { assert, Fault, joinBytes, type AppendFile, type Disk, type Rng } from '@typevisor/base'

export type SimDiskOperation = 'read' | 'open' | 'append' | 'sync' | 'truncate' | 'replace' | 'remove' | 'list'

export interface SimDiskOptions {
  readonly rng: Rng
  /** Bytes over all files; more is Fault `exhausted`. */
  readonly capacityBytes?: number
  /** Asked before each operation: a Fault makes it fail (an append may leave a part behind, as a real one does). */
  readonly faults?: (operation: SimDiskOperation, name: string) => Fault | null
  /** Called when an operation begins: where a crash test counts and crashes. */
  readonly onOperation?: (operation: SimDiskOperation, name: string) => void
}

export interface SimDisk extends Disk {
  readonly usedBytes: number
  /** Gives room, or takes it. */
  setCapacity(capacityBytes: number): void
  /**
   * The power goes. What was synced stays; of the rest any prefix of the operations stays, the last one torn. Who still uses this
   * disk waits for ever, as a dead process does. Answers the disk as the next process finds it.
   */
  crash(): SimDisk
}

type Change =
  | { readonly kind: 'append'; readonly content: Uint8Array }
  | { readonly kind: 'truncate'; readonly sizeBytes: number }

/** A file: what is safe, and what is only in the cache. */
interface SimFile {
  safe: Uint8Array
  changes: Change[]
  sizeBytes: number
}

const SECTOR_BYTES = 512

export function simDisk(options: SimDiskOptions): SimDisk {
  return new Life(options, new Map(), options.capacityBytes ?? Infinity)
}

class Life implements SimDisk {
  readonly #options: SimDiskOptions
  readonly #files: Map<string, SimFile>
  /** Removed since the folder was synced: may be there again after a crash. */
  readonly #removed = new Map<string, SimFile>()
  /** Being replaced at this moment: a crash leaves the old or the new. */
  readonly #replacing = new Map<string, Uint8Array>()
  #capacityBytes: number
  #dead = false

  constructor(options: SimDiskOptions, files: Map<string, SimFile>, capacityBytes: number) {
    this.#options = options
    this.#files = files
    this.#capacityBytes = capacityBytes
  }

  get usedBytes(): number {
    let used = 0
    for (const file of this.#files.values()) used += file.sizeBytes
    return used
  }

  setCapacity(capacityBytes: number): void {
    this.#capacityBytes = capacityBytes
  }

  async read(name: string): Promise<Uint8Array | null> {
    await this.#operate('read', name)
    const file = this.#files.get(name)
    return file ? content(file) : null
  }

  async open(name: string): Promise<AppendFile> {
    await this.#operate('open', name)
    let file = this.#files.get(name)
    if (!file) {
      file = { safe: new Uint8Array(0), changes: [], sizeBytes: 0 }
      this.#files.set(name, file)
      this.#removed.clear()
    }
    return this.#appendFile(name, file)
  }

  async replace(name: string, next: Uint8Array): Promise<void> {
    this.#checkName(name)
    const copy = next.slice()
    this.#replacing.set(name, copy)
    try {
      await this.#operate('replace', name)
      // Old and new are both on the disk until the old one is let go.
      if (this.usedBytes + copy.length > this.#capacityBytes) throw full(`replace ${name}`)
      this.#files.set(name, { safe: copy, changes: [], sizeBytes: copy.length })
      this.#removed.clear()
      await this.#pause()
    } finally {
      this.#replacing.delete(name)
    }
  }

  async remove(name: string): Promise<void> {
    await this.#operate('remove', name)
    const file = this.#files.get(name)
    if (!file) return
    this.#files.delete(name)
    this.#removed.set(name, file)
  }

  async list(): Promise<string[]> {
    await this.#operate('list', '')
    return [...this.#files.keys()].sort()
  }

  crash(): SimDisk {
    assert(!this.#dead, 'this disk has crashed before')
    this.#dead = true
    const { rng } = this.#options
    const after = new Map<string, SimFile>()
    for (const [name, file] of this.#files) after.set(name, survivor(file, rng))
    for (const [name, file] of this.#removed) if (!after.has(name) && rng.below(2) === 0) after.set(name, survivor(file, rng))
    for (const [name, next] of this.#replacing) {
      if (rng.below(2) === 0) after.set(name, { safe: next, changes: [], sizeBytes: next.length })
    }
    return new Life(this.#options, after, this.#capacityBytes)
  }

  #appendFile(name: string, file: SimFile): AppendFile {
    let open = true
    let turn: Promise<unknown> = Promise.resolve()
    // What is asked of one open file is done in the order of asking.
    const inTurn = (operation: SimDiskOperation, work: () => void, failed: () => void = () => {}): Promise<void> => {
      assert(open, `${operation} ${name}: the file is closed`)
      const done = turn.then(async () => {
        try {
          await this.#operate(operation, name)
        } catch (error) {
          failed()
          throw error
        }
        work()
      })
      turn = done.catch(() => {})
      return done
    }
    return {
      get sizeBytes() {
        return file.sizeBytes
      },
      append: (added) => {
        const copy = added.slice()
        const work = (): void => {
          const roomBytes = this.#capacityBytes - this.usedBytes
          this.#push(file, copy.subarray(0, Math.max(Math.min(copy.length, roomBytes), 0)))
          if (copy.length > roomBytes) throw full(`append to ${name}`)
        }
        return inTurn('append', work, () => this.#push(file, copy.subarray(0, this.#options.rng.below(copy.length + 1))))
      },
      sync: () =>
        inTurn('sync', () => {
          file.safe = applied(file.safe, file.changes)
          file.changes = []
        }),
      truncate: (sizeBytes) =>
        inTurn('truncate', () => {
          assert(sizeBytes <= file.sizeBytes, `truncate ${name} to ${sizeBytes} bytes of ${file.sizeBytes}`)
          file.changes.push({ kind: 'truncate', sizeBytes })
          file.sizeBytes = sizeBytes
        }),
      close: async () => {
        open = false
        await turn
        if (this.#dead) await never()
      },
    }
  }

  #push(file: SimFile, added: Uint8Array): void {
    if (added.length === 0) return
    file.changes.push({ kind: 'append', content: added })
    file.sizeBytes += added.length
  }

  async #operate(operation: SimDiskOperation, name: string): Promise<void> {
    if (operation !== 'list') this.#checkName(name)
    if (!this.#dead) this.#options.onOperation?.(operation, name)
    await this.#pause()
    const fault = this.#options.faults?.(operation, name)
    if (fault) throw fault
  }

  #checkName(name: string): void {
    if (!/^[^/\\\0]+$/.test(name) || name === '.' || name === '..')
      throw new Fault('invalid', `file name ${JSON.stringify(name)}: want a plain name`)
  }

  /** Lets others run, a different number of them each time. */
  async #pause(): Promise<void> {
    for (let turn = this.#options.rng.below(4); turn >= 0; turn -= 1) await null
    if (this.#dead) await never()
  }
}

const full = (action: string): Fault => new Fault('exhausted', `${action}: no space left`)
const never = (): Promise<never> => new Promise(() => {})
const content = (file: SimFile): Uint8Array => applied(file.safe, file.changes)

function applied(start: Uint8Array, changes: readonly Change[]): Uint8Array {
  if (changes.length === 0) return start.slice()
  const parts: Uint8Array[] = [start]
  let sizeBytes = start.length
  for (const change of changes) {
    if (change.kind === 'append') {
      parts.push(change.content)
      sizeBytes += change.content.length
      continue
    }
    while (sizeBytes > change.sizeBytes) {
      // The parts add up to `sizeBytes`, so there is a last one.
      const last = parts.pop() as Uint8Array
      sizeBytes -= last.length
      if (sizeBytes < change.sizeBytes) {
        parts.push(last.subarray(0, change.sizeBytes - sizeBytes))
        sizeBytes = change.sizeBytes
      }
    }
  }
  return joinBytes(parts)
}

/** The file after a crash: a prefix of the changes that were not synced, the last of them torn. */
function survivor(file: SimFile, rng: Rng): SimFile {
  const keptCount = rng.below(file.changes.length + 1)
  const kept = file.changes.slice(0, keptCount)
  const torn = file.changes[keptCount]
  if (torn?.kind === 'append') kept.push({ kind: 'append', content: tear(torn.content, rng) })
  const safe = applied(file.safe, kept)
  return { safe, changes: [], sizeBytes: safe.length }
}

/** A prefix, in which some sectors did not make it: the size was written, the bytes were not. */
function tear(whole: Uint8Array, rng: Rng): Uint8Array {
  const part = whole.slice(0, rng.below(whole.length + 1))
  for (let at = 0; at < part.length; at += SECTOR_BYTES) if (rng.below(4) === 0) part.fill(0, at, at + SECTOR_BYTES)
  return part
}

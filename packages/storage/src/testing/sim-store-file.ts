/** A store's file in memory that remembers what was not synced, for tests of what a crash leaves. */
import { Fault, type Rng } from '@typevisor/base'
import type { HostSpace, StoreFile } from '../store/ports.ts'

const SECTOR_BYTES = 512
const PAGE_BYTES = 4096
const ZEROS = new Uint8Array(PAGE_BYTES)

export interface SimStoreFileOptions {
  readonly rng: Rng
  readonly capacityBytes?: number
  /** Chance in 1000 that a read would have to wait. */
  readonly coldPerMille?: number
  /** Where superblocks and journal end: a power cut may take what is before it and leave what is behind it, and the other way round. */
  readonly journalEndBytes?: number
  /** Asked before each operation; a Fault makes it fail, a write perhaps half-way. */
  readonly faults?: (operation: 'read' | 'write' | 'sync' | 'allocate') => Fault | null
  /** Gets each write, and each sync when it is done, in order, through all crashes. */
  readonly record?: { push(operation: Recorded): void; readonly length: number }
}

/** What was asked of a file: sectors as they are after a write, or a sync that has made all safe that was before operation `covered`. */
export type Recorded =
  | { readonly kind: 'write'; readonly position: number; readonly sectors: Uint8Array }
  | { readonly kind: 'sync'; readonly covered: number }

/** What a sector was after one of all writes. */
interface Version {
  readonly number: number
  readonly bytes: Uint8Array
}

export class SimStoreFile implements StoreFile, Disposable {
  readonly #options: SimStoreFileOptions
  readonly capacityBytes: number
  /** By page: what a reader sees. Whole pages are exchanged, so that copies share them. */
  readonly #now: Map<number, Uint8Array>
  /** By sector: the versions that a power cut may leave, the first of them the safe one, numbered in the order of all writes. */
  readonly #unsafe = new Map<number, Version[]>()
  /** Pages of which a sector cannot be read, until all of them is written: as of a kernel's cache. */
  readonly #unreadable: Set<number>
  #versionCount = 0
  #dead = false
  #waiting: (() => void)[] = []
  writeCount = 0
  /** What the host's file system still has; null: it is not asked. */
  hostAvailableBytes: number | null = null
  /** What it has for pages that the file has no room for yet; null: as much as is wanted. */
  roomBytes: number | null = null
  /** Pages for which the file has room: written, or made. */
  readonly #backed: Set<number>

  constructor(
    options: SimStoreFileOptions,
    content: Map<number, Uint8Array> = new Map(),
    unreadable: Iterable<number> = [],
    backed: Iterable<number> = [],
  ) {
    this.#options = options
    this.#now = content
    this.#unreadable = new Set(unreadable)
    this.#backed = new Set(backed)
    this.capacityBytes = options.capacityBytes ?? 2 ** 40
  }

  get isDead(): boolean {
    return this.#dead
  }

  get sizeBytes(): number {
    return Math.max(0, ...this.#now.keys()) * PAGE_BYTES + PAGE_BYTES
  }

  readNow(position: number, target: Uint8Array, start: number, lengthBytes: number): boolean {
    if (this.#options.rng.below(1000) < (this.#options.coldPerMille ?? 0)) return false
    this.readBlocking(position, target, start, lengthBytes)
    return true
  }

  readBlocking(position: number, target: Uint8Array, start: number, lengthBytes: number): void {
    const fault = this.#options.faults?.('read')
    if (fault) throw fault
    if (this.#unreadable.size > 0)
      for (let page = Math.floor(position / PAGE_BYTES); page * PAGE_BYTES < position + lengthBytes; page += 1)
        this.#assertReadable(page)
    this.#copyOut(position, target, start, lengthBytes)
  }

  #assertReadable(page: number): void {
    if (this.#unreadable.has(page)) throw new Fault('failed', `read at ${page * PAGE_BYTES}: input/output error`)
  }

  #copyOut(position: number, target: Uint8Array, start: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes;) {
      const at = position + done
      const partBytes = Math.min(PAGE_BYTES - (at % PAGE_BYTES), lengthBytes - done)
      const page = this.#now.get(Math.floor(at / PAGE_BYTES))
      if (page) target.set(page.subarray(at % PAGE_BYTES, (at % PAGE_BYTES) + partBytes), start + done)
      else target.fill(0, start + done, start + done + partBytes)
      done += partBytes
    }
  }

  async read(position: number, target: Uint8Array): Promise<void> {
    await this.#turns()
    this.readBlocking(position, target, 0, target.length)
  }

  write(position: number, parts: readonly Uint8Array[]): void {
    if (this.#dead) throw new Fault('failed', 'the process is dead')
    this.writeCount += 1
    const fault = this.#options.faults?.('write')
    const total = parts.reduce((sum, part) => sum + part.length, 0)
    let left = fault ? this.#options.rng.below(total + 1) : total
    let at = position
    for (const part of parts) {
      const partBytes = Math.min(left, part.length)
      this.#put(at, part.subarray(0, partBytes))
      at += partBytes
      left -= partBytes
    }
    if (fault) throw fault
    this.#record(position, total)
  }

  #record(position: number, lengthBytes: number): void {
    if (!this.#options.record) return
    const start = Math.floor(position / SECTOR_BYTES) * SECTOR_BYTES
    const sectors = new Uint8Array(Math.ceil((position + lengthBytes) / SECTOR_BYTES) * SECTOR_BYTES - start)
    this.#copyOut(start, sectors, 0, sectors.length)
    this.#options.record.push({ kind: 'write', position: start, sectors })
  }

  /** A page is never changed, but another one put in its place: versions and copies of the file share them. */
  #put(position: number, content: Uint8Array, takesRoom = true): void {
    for (let done = 0; done < content.length;) {
      const at = position + done
      const number = Math.floor(at / PAGE_BYTES)
      const inPage = at - number * PAGE_BYTES
      const partBytes = Math.min(PAGE_BYTES - inPage, content.length - done)
      if (takesRoom) this.#back([number])
      // What is left of the page is read first.
      if (partBytes === PAGE_BYTES) this.#unreadable.delete(number)
      else this.#assertReadable(number)
      const before = this.#now.get(number) ?? ZEROS
      const page = before.slice()
      page.set(content.subarray(done, done + partBytes), inPage)
      this.#now.set(number, page)
      const first = Math.floor(inPage / SECTOR_BYTES)
      for (let sector = first; sector * SECTOR_BYTES < inPage + partBytes; sector += 1) {
        const [start, end] = [sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES]
        const key = number * (PAGE_BYTES / SECTOR_BYTES) + sector
        const versions = this.#unsafe.get(key) ?? [{ number: this.#versionCount, bytes: before.subarray(start, end) }]
        versions.push({ number: (this.#versionCount += 1), bytes: page.subarray(start, end) })
        this.#unsafe.set(key, versions)
      }
      done += partBytes
    }
  }

  async sync(): Promise<void> {
    const covered = this.#versionCount
    const recordedCount = this.#options.record?.length ?? 0
    await this.#turns()
    const fault = this.#options.faults?.('sync')
    if (fault) throw fault
    for (const [sector, versions] of this.#unsafe) {
      // Up to the last version that was there when it was called.
      const rest = versions.slice(
        Math.max(
          0,
          versions.findLastIndex(({ number }) => number <= covered),
        ),
      )
      if (rest.length <= 1) this.#unsafe.delete(sector)
      else this.#unsafe.set(sector, rest)
    }
    this.#options.record?.push({ kind: 'sync', covered: recordedCount })
  }

  /** Now and then the disk is full with what others have. */
  allocate(position: number, lengthBytes: number): void {
    const fault = this.#options.faults?.('allocate')
    if (fault) throw new Fault('exhausted', 'no space left', { cause: fault })
    const first = Math.floor(position / PAGE_BYTES)
    this.#back(Array.from({ length: Math.ceil((position + lengthBytes) / PAGE_BYTES) - first }, (_, index) => first + index))
  }

  /** All of them, or none. */
  #back(pages: readonly number[]): void {
    const wanted = pages.filter((page) => !this.#backed.has(page))
    if (this.roomBytes !== null) {
      if (wanted.length * PAGE_BYTES > this.roomBytes) throw new Fault('exhausted', 'no space left')
      this.roomBytes -= wanted.length * PAGE_BYTES
    }
    for (const page of wanted) this.#backed.add(page)
  }

  punch(position: number, lengthBytes: number): void {
    if (this.#dead) return
    for (const page of this.#now.keys()) {
      const at = page * PAGE_BYTES
      if (at < position || at >= position + lengthBytes) continue
      // A hole needs no room, also where there is one already.
      this.#put(at, new Uint8Array(PAGE_BYTES), false)
      this.#record(at, PAGE_BYTES)
    }
    for (let page = Math.floor(position / PAGE_BYTES); page * PAGE_BYTES < position + lengthBytes; page += 1)
      if (this.#backed.delete(page) && this.roomBytes !== null) this.roomBytes += PAGE_BYTES
  }

  async hostSpace(): Promise<HostSpace | null> {
    return this.hostAvailableBytes === null
      ? null
      : { availableBytes: this.hostAvailableBytes, allocatedBytes: this.#now.size * PAGE_BYTES }
  }

  async close(): Promise<void> {}

  /** The process ends here: whoever still waits for this file waits for ever. `power` cuts: of what was not synced any sector may be old. */
  crash(kind: 'kill' | 'power'): SimStoreFile {
    this.#dead = true
    const { rng } = this.#options
    const content = new Map(this.#now)
    if (kind === 'power') {
      // Some cuts lose nearly all, some nearly nothing, some only the journal or only the data; of what is lost some is as old as can be.
      const pick = <T>(from: readonly T[]): T => from[rng.below(from.length)] as T
      const keptPerCent = [pick([0, 50, 90, 100]), pick([0, 50, 90, 100])] as const
      const oldest = rng.below(3) === 0
      // Disks lose sectors, or whole pages.
      const unitBytes = pick([SECTOR_BYTES, PAGE_BYTES])
      const isKept = new Map<number, boolean>()
      const changed = new Map<number, Uint8Array>()
      for (const [sector, versions] of this.#unsafe) {
        const perCent = keptPerCent[sector * SECTOR_BYTES < (this.#options.journalEndBytes ?? 0) ? 0 : 1]
        const unit = Math.floor((sector * SECTOR_BYTES) / unitBytes)
        const kept = isKept.get(unit) ?? rng.below(100) < perCent
        isKept.set(unit, kept)
        const version = kept ? versions.at(-1) : versions[oldest ? 0 : rng.below(versions.length)]
        const number = Math.floor((sector * SECTOR_BYTES) / PAGE_BYTES)
        const page = changed.get(number) ?? this.pageAt(number)
        page.set((version as Version).bytes, (sector * SECTOR_BYTES) % PAGE_BYTES)
        changed.set(number, page)
        content.set(number, page)
      }
    }
    const left = new SimStoreFile(this.#options, content, this.#unreadable, this.#backed)
    left.roomBytes = this.roomBytes
    // The kernel lives on, with what it has not written yet.
    if (kind === 'kill') {
      for (const [sector, versions] of this.#unsafe) left.#unsafe.set(sector, [...versions])
      left.#versionCount = this.#versionCount
    }
    return left
  }

  /** The process ends here, and nobody has its file any more. */
  [Symbol.dispose](): void {
    this.#dead = true
  }

  /** The file as it is now, for somebody else. */
  copy(): SimStoreFile {
    return new SimStoreFile(this.#options, new Map(this.#now), this.#unreadable, this.#backed)
  }

  /** Blocks that were ever written. */
  get pageNumbers(): number[] {
    return [...this.#now.keys()]
  }

  /** Damages one byte of what is there. */
  rot(position: number): void {
    const page = this.pageAt(Math.floor(position / PAGE_BYTES))
    page[position % PAGE_BYTES] = (page[position % PAGE_BYTES] as number) ^ 0x40
    this.replacePage(Math.floor(position / PAGE_BYTES), page)
  }

  /** A sector of this page cannot be read any more. */
  makeUnreadable(page: number): void {
    this.#unreadable.add(page)
  }

  /** What is there, to be put elsewhere or back later. */
  pageAt(page: number): Uint8Array {
    return this.#now.get(page)?.slice() ?? new Uint8Array(PAGE_BYTES)
  }

  /** The disk has this instead, and nobody wrote it there. */
  replacePage(page: number, content: Uint8Array): void {
    this.#now.set(page, content.slice())
  }

  async #turns(): Promise<void> {
    for (let turn = this.#options.rng.below(6); turn >= 0; turn -= 1) await null
    if (this.#dead) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }
}

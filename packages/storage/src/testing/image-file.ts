/** A store's file in memory that is a few pages over what others share: made and thrown away thousands of times. */
import { Fault } from '@typevisor/base'
import type { StoreFile } from '../store/ports.ts'

const PAGE_BYTES = 4096

/** Pages by their number; those that are not there are zeros. */
export type Pages = Map<number, Uint8Array>

export class ImageFile implements StoreFile {
  readonly #below: ReadonlyMap<number, Uint8Array>
  readonly #own: Pages = new Map()
  readonly #unreadable = new Set<number>()
  readonly capacityBytes: number

  constructor(below: ReadonlyMap<number, Uint8Array>, capacityBytes: number) {
    this.#below = below
    this.capacityBytes = capacityBytes
  }

  get sizeBytes(): number {
    return this.capacityBytes
  }

  makeUnreadable(position: number, lengthBytes: number): void {
    for (let at = position; at < position + lengthBytes; at += PAGE_BYTES) this.#unreadable.add(Math.floor(at / PAGE_BYTES))
  }

  readNow(position: number, target: Uint8Array, start: number, lengthBytes: number): boolean {
    this.readBlocking(position, target, start, lengthBytes)
    return true
  }

  readBlocking(position: number, target: Uint8Array, start: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes;) {
      const at = position + done
      const number = Math.floor(at / PAGE_BYTES)
      const inPage = at - number * PAGE_BYTES
      const partBytes = Math.min(PAGE_BYTES - inPage, lengthBytes - done)
      if (this.#unreadable.has(number)) throw new Fault('failed', `read at ${at}: input/output error`)
      const page = this.#own.get(number) ?? this.#below.get(number)
      if (page) target.set(page.subarray(inPage, inPage + partBytes), start + done)
      else target.fill(0, start + done, start + done + partBytes)
      done += partBytes
    }
  }

  async read(position: number, target: Uint8Array): Promise<void> {
    this.readBlocking(position, target, 0, target.length)
  }

  write(position: number, parts: readonly Uint8Array[]): void {
    let at = position
    for (const part of parts) {
      putInto(this.#own, at, part, this.#below, this.#unreadable)
      at += part.length
    }
  }

  async sync(): Promise<void> {}
  allocate(): void {}
  punch(): void {}
  async close(): Promise<void> {}
}

/** Writes into `pages`, over what is `below` where that has no page yet. */
export function putInto(
  pages: Pages,
  position: number,
  content: Uint8Array,
  below: ReadonlyMap<number, Uint8Array> = new Map(),
  unreadable: Set<number> = new Set(),
): void {
  for (let done = 0; done < content.length;) {
    const at = position + done
    const number = Math.floor(at / PAGE_BYTES)
    const inPage = at - number * PAGE_BYTES
    const partBytes = Math.min(PAGE_BYTES - inPage, content.length - done)
    const part = content.subarray(done, done + partBytes)
    if (partBytes === PAGE_BYTES) {
      unreadable.delete(number)
      pages.set(number, part.slice())
    } else {
      if (unreadable.has(number)) throw new Fault('failed', `write at ${at}: input/output error`)
      let page = pages.get(number)
      if (!page) {
        page = below.get(number)?.slice() ?? new Uint8Array(PAGE_BYTES)
        pages.set(number, page)
      }
      page.set(part, inPage)
    }
    done += partBytes
  }
}

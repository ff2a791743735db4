import { Fault, type BlockDevice, type Extent, type ImmediateBlockDevice } from '@typevisor/base'

/** Space is taken in pieces of this size, when they are first written to. */
const PIECE_BYTES = 2 * 1024 * 1024

/** There is an entry for each piece: 4 Mi of them. */
const SIZE_BYTES_MAX = 8 * 1024 ** 4

/** A disk in memory, gone with its process. What was never written takes no space, nor do whole pieces that were trimmed. */
export function memoryDevice(sizeBytes: number): BlockDevice {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > SIZE_BYTES_MAX)
    throw new Fault('invalid', `size: got ${sizeBytes}, want whole bytes from 0 to ${SIZE_BYTES_MAX}`)
  return new MemoryDevice(sizeBytes)
}

class MemoryDevice implements BlockDevice {
  readonly sizeBytes: number
  readonly readOnly = false
  readonly blockBytesMin = 1
  readonly blockBytesPreferred = 4096
  readonly now: ImmediateBlockDevice
  readonly #pieces: (Uint8Array | undefined)[]

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes
    this.#pieces = Array.from({ length: Math.ceil(sizeBytes / PIECE_BYTES) })
    this.now = {
      read: (offset, lengthBytes, target, targetStart) => {
        this.#copyOut(offset, lengthBytes, target, targetStart)
        return true
      },
      write: (offset, source) => {
        this.#copyIn(offset, source)
        return true
      },
      hasHoles: (offset, lengthBytes) => {
        for (let index = Math.floor(offset / PIECE_BYTES); index * PIECE_BYTES < offset + lengthBytes; index += 1)
          if (this.#pieces[index] === undefined) return true
        return false
      },
      commit: () => {},
    }
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    this.#copyOut(offset, target.length, target, 0)
  }
  async write(offset: number, source: Uint8Array): Promise<void> {
    this.#copyIn(offset, source)
  }
  async flush(): Promise<void> {}
  async cache(): Promise<void> {}
  trim(offset: number, lengthBytes: number): Promise<void> {
    return this.zero(offset, lengthBytes)
  }
  async zero(offset: number, lengthBytes: number): Promise<void> {
    const end = offset + lengthBytes
    for (let at = offset; at < end;) {
      const [index, start] = [Math.floor(at / PIECE_BYTES), at % PIECE_BYTES]
      const partBytes = Math.min(PIECE_BYTES - start, end - at)
      if (partBytes === PIECE_BYTES || (index * PIECE_BYTES + start + partBytes === this.sizeBytes && start === 0))
        this.#pieces[index] = undefined
      else this.#pieces[index]?.fill(0, start, start + partBytes)
      at += partBytes
    }
  }
  async extents(offset: number, lengthBytes: number, countMax: number): Promise<readonly Extent[]> {
    const extents: { lengthBytes: number; hole: boolean; zero: boolean }[] = []
    const end = offset + lengthBytes
    for (let at = offset; at < end;) {
      const index = Math.floor(at / PIECE_BYTES)
      const partBytes = Math.min((index + 1) * PIECE_BYTES, end) - at
      const hole = this.#pieces[index] === undefined
      const last = extents.at(-1)
      if (last?.hole === hole) last.lengthBytes += partBytes
      else if (extents.length === countMax) break
      else extents.push({ lengthBytes: partBytes, hole, zero: hole })
      at += partBytes
    }
    return extents
  }

  #copyOut(offset: number, lengthBytes: number, target: Uint8Array, targetStart: number): void {
    let at = offset
    let to = targetStart
    const end = offset + lengthBytes
    while (at < end) {
      const start = at % PIECE_BYTES
      const partBytes = Math.min(PIECE_BYTES - start, end - at)
      const piece = this.#pieces[Math.floor(at / PIECE_BYTES)]
      if (piece === undefined) target.fill(0, to, to + partBytes)
      else target.set(piece.subarray(start, start + partBytes), to)
      at += partBytes
      to += partBytes
    }
  }

  #copyIn(offset: number, source: Uint8Array): void {
    let at = offset
    let from = 0
    while (from < source.length) {
      const [index, start] = [Math.floor(at / PIECE_BYTES), at % PIECE_BYTES]
      const partBytes = Math.min(PIECE_BYTES - start, source.length - from)
      const piece = (this.#pieces[index] ??= new Uint8Array(PIECE_BYTES))
      piece.set(partBytes === source.length ? source : source.subarray(from, from + partBytes), start)
      at += partBytes
      from += partBytes
    }
  }
}

/** What Node's file system lacks for a disk's file: reads that never wait, holes, and room that is there for sure. */
import { libc } from './libc.ts'

const PUNCH_HOLE_KEEP_SIZE = 2 | 1

export interface FileCalls {
  /** Fills `target` from `start` on with what is in the page cache. @returns the bytes it got, or -errno: EAGAIN, EOPNOTSUPP. */
  readNoWait(fd: number, target: Uint8Array, start: number, lengthBytes: number, position: number): number
  /** Gives the room of a range back; it reads as zeros. @returns 0, or -errno. */
  punchHole(fd: number, position: number, lengthBytes: number): number
  /** Room for a range, whatever else fills the disk afterwards. @returns 0, or -errno. */
  allocate(fd: number, position: number, lengthBytes: number): number
}

/** null: the C library cannot be called here. */
export function fileCalls(): FileCalls | null {
  const c = libc()
  return (
    c && {
      readNoWait: (...call) => c.preadNoWait(...call),
      punchHole: (fd, position, lengthBytes) => c.fallocate(fd, PUNCH_HOLE_KEEP_SIZE, position, lengthBytes),
      allocate: (fd, position, lengthBytes) => c.fallocate(fd, 0, position, lengthBytes),
    }
  )
}

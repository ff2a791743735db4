/**
 * A store's file on Linux: synchronous calls for what the page cache has or takes, libuv's pool for what waits for the disk. Whether a read
 * would wait only the kernel knows (RWF_NOWAIT); where it does not say (tmpfs, which never waits; no C library) it is read at once.
 */
import { crc32 } from 'node:zlib'
import {
  closeSync,
  constants as flag,
  fdatasync,
  fstatSync,
  openSync,
  read,
  readFileSync,
  readSync,
  statSync,
  writevSync,
} from 'node:fs'
import { statfs } from 'node:fs/promises'
import { constants } from 'node:os'
import { Fault } from '@typevisor/base'
import type { Checksum, StoreFile } from './store/ports.ts'

export const nodeChecksum: Checksum = (content, start = 0) => crc32(content, start)

/** Calls that Node lacks; each answers -errno when it fails. */
export interface FileCalls {
  readNoWait(fd: number, target: Uint8Array, start: number, lengthBytes: number, position: number): number
  punchHole(fd: number, position: number, lengthBytes: number): number
  allocate(fd: number, position: number, lengthBytes: number): number
}

const { EDQUOT, EINVAL, ENOSPC, ENOSYS, EOPNOTSUPP } = constants.errno
/** What a kernel or a file system says that does not know RWF_NOWAIT. */
const NOT_KNOWN: ReadonlySet<number> = new Set([-EOPNOTSUPP, -ENOSYS, -EINVAL])

export interface NodeStoreFileOptions {
  readonly path: string
  readonly calls?: FileCalls | null
  readonly create?: boolean
  readonly capacityBytes?: number
}

const CAPACITY_BYTES = 2 ** 44

/** @throws Fault `not_found`, `conflict` (it is there and should be made), `failed`. */
export function nodeStoreFile(options: NodeStoreFileOptions): StoreFile {
  const { path, calls = null, create = false, capacityBytes = CAPACITY_BYTES } = options
  const fault = (what: string, error: unknown): Fault => {
    const { code, message } = error as NodeJS.ErrnoException
    const kind =
      code === 'ENOENT'
        ? 'not_found'
        : code === 'EEXIST' || code === 'EBUSY'
          ? 'conflict'
          : code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG'
            ? 'exhausted'
            : 'failed'
    return new Fault(kind, `${what} ${path}: ${message}`, { cause: error })
  }
  let fd: number
  const deviceBytes = blockDeviceBytes(path)
  try {
    // Of a device the kernel lets one have it this way, and none while it is mounted.
    fd = deviceBytes === null ? openSync(path, create ? 'wx+' : 'r+', 0o600) : openSync(path, flag.O_RDWR | flag.O_EXCL)
  } catch (error) {
    throw fault('open', error)
  }
  const zeroRest = (target: Uint8Array, start: number, lengthBytes: number, gotBytes: number): void => {
    if (gotBytes < lengthBytes) target.fill(0, start + gotBytes, start + lengthBytes)
  }
  const readAll = (position: number, target: Uint8Array, start: number, lengthBytes: number): void => {
    try {
      let got = 0
      while (got < lengthBytes) {
        const count = readSync(fd, target, start + got, lengthBytes - got, position + got)
        if (count === 0) break
        got += count
      }
      zeroRest(target, start, lengthBytes, got)
    } catch (error) {
      throw fault(`read ${lengthBytes} bytes at ${position} of`, error)
    }
  }
  let isOpen = true
  let tellsWaiting = calls !== null
  let punches = calls !== null
  let allocates = calls !== null
  return {
    get sizeBytes() {
      return deviceBytes ?? fstatSync(fd).size
    },
    capacityBytes: deviceBytes ?? capacityBytes,
    readNow(position, target, start, lengthBytes) {
      if (tellsWaiting && calls) {
        const got = calls.readNoWait(fd, target, start, lengthBytes, position)
        if (got === lengthBytes) return true
        // It would wait (EAGAIN), or fails: who waits for it is told why, beside the loop.
        if (got < 0 && !NOT_KNOWN.has(got)) return false
        // A part of it is there, or the file ends here.
        if (got >= 0 && position + got < (deviceBytes ?? fstatSync(fd).size)) return false
        if (got < 0) tellsWaiting = false
      }
      readAll(position, target, start, lengthBytes)
      return true
    },
    readBlocking: readAll,
    read: (position, target) =>
      new Promise((resolve, reject) => {
        read(fd, target, 0, target.length, position, (error, count) => {
          if (error) reject(fault(`read ${target.length} bytes at ${position} of`, error))
          else {
            zeroRest(target, 0, target.length, count)
            resolve()
          }
        })
      }),
    write(position, parts) {
      try {
        let at = position
        for (let from = 0; from < parts.length; from += IOV_MAX) {
          const batch = parts.length <= IOV_MAX ? parts : parts.slice(from, from + IOV_MAX)
          at = writeAll(fd, batch, at)
        }
      } catch (error) {
        throw fault(`write at ${position} of`, error)
      }
    },
    sync: () => new Promise((resolve, reject) => fdatasync(fd, (error) => (error ? reject(fault('sync', error)) : resolve()))),
    allocate(position, lengthBytes) {
      if (!allocates || !calls) return
      const result = calls.allocate(fd, position, lengthBytes)
      if (result === -ENOSPC || result === -EDQUOT)
        throw new Fault('exhausted', `make room for ${lengthBytes} bytes at ${position} of ${path}: no space left`)
      if (result < 0) allocates = false
    },
    punch(position, lengthBytes) {
      if (punches && calls && calls.punchHole(fd, position, lengthBytes) < 0) punches = false
    },
    async hostSpace() {
      const found = fstatSync(fd)
      if (!found.isFile()) return null
      const { bavail, bsize } = await statfs(path)
      return { availableBytes: bavail * bsize, allocatedBytes: found.blocks * STAT_BLOCK_BYTES }
    },
    async close() {
      if (isOpen) closeSync(fd)
      isOpen = false
    },
  }
}

/** null: it is no block device, or not there. */
export function blockDeviceBytes(path: string): number | null {
  const found = statSync(path, { throwIfNoEntry: false })
  if (!found?.isBlockDevice()) return null
  const [major, minor] = [(found.rdev >> 8) & 0xfff, (found.rdev & 0xff) | ((found.rdev >> 12) & 0xfff00)]
  return Number(readFileSync(`/sys/dev/block/${major}:${minor}/size`, 'ascii')) * 512
}

const IOV_MAX = 1024
/** Of `st_blocks`: stat(2). */
const STAT_BLOCK_BYTES = 512

/** All of it, also when the kernel takes it in pieces. @returns where the next byte goes. */
function writeAll(fd: number, parts: readonly Uint8Array[], position: number): number {
  let rest: readonly Uint8Array[] = parts
  let at = position
  while (rest.length > 0) {
    let written = writevSync(fd, rest as Uint8Array[], at) // it changes none of them
    at += written
    let index = 0
    while (index < rest.length && written >= (rest[index]?.length ?? 0)) {
      written -= rest[index]?.length ?? 0
      index += 1
    }
    rest = written === 0 ? rest.slice(index) : [(rest[index] as Uint8Array).subarray(written), ...rest.slice(index + 1)]
  }
  return at
}

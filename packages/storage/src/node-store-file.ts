/** A store's file on Linux: synchronous calls for what the page cache has or takes, libuv's pool for what waits for the disk. */
import { crc32 } from 'node:zlib'
import { closeSync, fdatasync, fstatSync, openSync, read, readSync, writevSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { Fault } from '@typevisor/base'
import type { Checksum, StoreFile } from './store/ports.ts'

export const nodeChecksum: Checksum = (content, start = 0) => crc32(content, start)

export interface NodeStoreFileOptions {
  readonly path: string
  readonly create?: boolean
  readonly capacityBytes?: number
}

const CAPACITY_BYTES = 2 ** 44

/** @throws Fault `not_found`, `conflict` (it is there and should be made), `failed`. */
export function nodeStoreFile({ path, create = false, capacityBytes = CAPACITY_BYTES }: NodeStoreFileOptions): StoreFile {
  const fault = (what: string, error: unknown): Fault => {
    const { code, message } = error as NodeJS.ErrnoException
    const kind =
      code === 'ENOENT'
        ? 'not_found'
        : code === 'EEXIST'
          ? 'conflict'
          : code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG'
            ? 'exhausted'
            : 'failed'
    return new Fault(kind, `${what} ${path}: ${message}`, { cause: error })
  }
  let fd: number
  try {
    fd = openSync(path, create ? 'wx+' : 'r+', 0o600)
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
  return {
    get sizeBytes() {
      return fstatSync(fd).size
    },
    capacityBytes,
    readNow(position, target, start, lengthBytes) {
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
    punch() {},
    async hostSpace() {
      const found = fstatSync(fd)
      if (!found.isFile()) return null
      const { bavail, bsize } = await statfs(path)
      return { availableBytes: bavail * bsize, allocatedBytes: found.blocks * STAT_BLOCK_BYTES }
    },
    async close() {
      closeSync(fd)
    },
  }
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

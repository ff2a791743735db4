/** The few calls of the C library that Node lacks, through koffi. Loaded at first use; where it cannot be loaded the answer is null. */
import { createRequire } from 'node:module'
import { endianness } from 'node:os'

export interface Libc {
  /** The file descriptor, or -errno. A pidfd: `pidfd_open(2)`. */
  pidfdOpen(pid: number): number
  /** 0, or -errno: `pidfd_send_signal(2)`. */
  pidfdSendSignal(pidfd: number, signal: number): number
  /** 0, or -errno: `flock(2)`. */
  flock(fd: number, operation: number): number
  /** The file descriptor, or -errno: `eventfd(2)`, close-on-exec and non-blocking. */
  eventfd(): number
  /** Bytes of `target`, from `start` on, that are in the page cache, or -errno: `preadv2(2)` with RWF_NOWAIT. */
  preadNoWait(fd: number, target: Uint8Array, start: number, lengthBytes: number, position: number): number
  /** 0, or -errno; bit N of `mask` is CPU N: `sched_setaffinity(2)`. */
  schedSetAffinity(tid: number, mask: Uint8Array): number
  /** Bytes of `content` that were sent, the descriptor with the first of them, or -errno: `sendmsg(2)` with SCM_RIGHTS. Never waits. */
  sendDescriptor(socket: number, content: Uint8Array, descriptor: number): number
  /** 0, or -errno: `fallocate(2)`. */
  fallocate(fd: number, mode: number, position: number, lengthBytes: number): number
  /** 0, or -errno: `mkfifo(3)`. */
  mkfifo(path: string, mode: number): number
  /** Waits on a thread of libuv's pool; fills `revents`. The number of ready descriptors, or -1: `poll(2)`. */
  poll(fds: PollFd[], timeoutMs: number): Promise<number>
}

export interface PollFd {
  fd: number
  events: number
  revents: number
}

export const POLLIN = 1
export const LOCK_SH_NB = 1 | 4
export const LOCK_EX_NB = 2 | 4

/** The same on every architecture: new calls have one table (`include/uapi/asm-generic/unistd.h`). */
const SYS_PIDFD_SEND_SIGNAL = 424
const SYS_PIDFD_OPEN = 434
const EFD_CLOEXEC_NONBLOCK = 0o2000000 | 0o4000
const RWF_NOWAIT = 8
const MSG_DONTWAIT_NOSIGNAL = 0x40 | 0x4000
const SOL_SOCKET = 1
const SCM_RIGHTS = 1
const RIGHT_AT = 16
const IS_LITTLE_ENDIAN = endianness() === 'LE'

let loaded: Libc | null | undefined

export function libc(): Libc | null {
  if (loaded === undefined) loaded = load()
  return loaded
}

function load(): Libc | null {
  if (process.platform !== 'linux') return null
  try {
    // koffi is CommonJS and has native parts: required when needed, so that a machine without it can do all the rest.
    const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
    const library = koffi.load(null)
    const syscall = library.func('long syscall(long number, ...)')
    const flock = library.func('int flock(int fd, int operation)')
    const eventfd = library.func('int eventfd(unsigned int initval, int flags)')
    koffi.struct('typevisor_pollfd', { fd: 'int', events: 'short', revents: 'short' })
    const poll = library.func('int poll(_Inout_ typevisor_pollfd *fds, unsigned long nfds, int timeout)')
    const preadv2 = library.func('long preadv2(int fd, void *iov, int count, long position, int flags)')
    // The last argument keeps what is sent from being collected, and is not looked at.
    const sendmsg = library.func('long sendmsg(int fd, void *message, int flags, const void *kept)')
    const fallocate = library.func('int fallocate(int fd, int mode, long position, long length)')
    const setAffinity = library.func('int sched_setaffinity(int tid, size_t size, const uint8_t *mask)')
    const mkfifo = library.func('int mkfifo(const char *path, unsigned int mode)')
    // One iovec: address and length, of the machine's own byte order.
    const iov = new BigUint64Array(2)
    const addresses = new WeakMap<ArrayBufferLike, bigint>()
    const addressOf = (buffer: ArrayBufferLike): bigint => {
      let address = addresses.get(buffer)
      if (address === undefined) addresses.set(buffer, (address = koffi.address(new Uint8Array(buffer))))
      return address
    }
    // A control message of one descriptor: length, level, type, and it; its room is a multiple of eight.
    const right = new DataView(new ArrayBuffer(24))
    right.setBigUint64(0, BigInt(RIGHT_AT + 4), IS_LITTLE_ENDIAN)
    right.setInt32(8, SOL_SOCKET, IS_LITTLE_ENDIAN)
    right.setInt32(12, SCM_RIGHTS, IS_LITTLE_ENDIAN)
    // Name, its length, parts, how many, control messages, their room, flags.
    const message = new BigUint64Array([0n, 0n, addressOf(iov.buffer), 1n, addressOf(right.buffer), 24n, 0n])
    const orErrno = (result: unknown): number => (Number(result) < 0 ? -koffi.errno() : Number(result))
    return {
      pidfdOpen: (pid) => orErrno(syscall(SYS_PIDFD_OPEN, 'int', pid, 'unsigned int', 0)),
      pidfdSendSignal: (pidfd, signal) =>
        orErrno(syscall(SYS_PIDFD_SEND_SIGNAL, 'int', pidfd, 'int', signal, 'void *', null, 'unsigned int', 0)),
      flock: (fd, operation) => orErrno(flock(fd, operation)),
      eventfd: () => orErrno(eventfd(0, EFD_CLOEXEC_NONBLOCK)),
      preadNoWait: (fd, target, start, lengthBytes, position) => {
        iov[0] = addressOf(target.buffer) + BigInt(target.byteOffset + start)
        iov[1] = BigInt(lengthBytes)
        return orErrno(preadv2(fd, iov, 1, position, RWF_NOWAIT))
      },
      sendDescriptor: (socket, content, descriptor) => {
        iov[0] = addressOf(content.buffer) + BigInt(content.byteOffset)
        iov[1] = BigInt(content.length)
        right.setInt32(RIGHT_AT, descriptor, IS_LITTLE_ENDIAN)
        return orErrno(sendmsg(socket, message, MSG_DONTWAIT_NOSIGNAL, content))
      },
      schedSetAffinity: (tid, mask) => orErrno(setAffinity(tid, mask.length, mask)),
      fallocate: (fd, mode, position, lengthBytes) => orErrno(fallocate(fd, mode, position, lengthBytes)),
      mkfifo: (path, mode) => orErrno(mkfifo(path, mode)),
      poll: (fds, timeoutMs) =>
        new Promise((resolve, reject) => {
          poll.async(fds, fds.length, timeoutMs, (error: unknown, result: number) => (error ? reject(error) : resolve(result)))
        }),
    }
  } catch {
    return null
  }
}

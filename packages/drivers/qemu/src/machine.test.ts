/** A guest that waits for room on its disk, tried in virtual time against a QEMU that is only its monitor. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { millis } from '@typevisor/base'
import { memoryLog, virtualClock, type VirtualClock } from '@typevisor/sim'
import type { DriverState } from '@typevisor/toolstack'
import { domainPaths } from './layout.ts'
import { Machine } from './machine.ts'
import type { QemuHost } from './ports.ts'
import { parseRecord, type RunRecord } from './record.ts'
import { SocketDouble } from './socket-double.ts'
import { testDomain } from './testing.ts'

const DISK_FULL: DriverState = { kind: 'paused', cause: 'disk-full' }
const REQUESTED: DriverState = { kind: 'paused', cause: 'requested' }
const INTERVAL_MS = 5000

class Monitor {
  status = 'io-error'
  /** Why it stands still. */
  disk: 'nospace' | 'failed' = 'nospace'
  /** What the repeated write will meet. */
  write: 'succeeds' | 'nospace' | 'failed' = 'nospace'
  contCount = 0

  connect(): SocketDouble {
    const socket = new SocketDouble()
    socket.send({ QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 } } } })
    socket.onLine = (line) => this.#answer(socket, JSON.parse(line) as { execute: string; id: number })
    return socket
  }

  #answer(socket: SocketDouble, { execute, id }: { execute: string; id: number }): void {
    if (execute === 'query-status') return socket.send({ return: { status: this.status }, id })
    if (execute === 'query-block') return socket.send({ return: [{ 'io-status': this.disk }], id })
    if (execute !== 'cont') return socket.send({ return: {}, id })
    this.contCount += 1
    this.status = 'running'
    socket.send({ event: 'RESUME' })
    socket.send({ return: {}, id })
    if (this.write === 'succeeds') return
    this.status = 'io-error'
    this.disk = this.write
    socket.send({ event: 'BLOCK_IO_ERROR', data: { action: 'stop', nospace: this.write === 'nospace' } })
    socket.send({ event: 'STOP' })
  }
}

interface Scene {
  readonly clock: VirtualClock
  readonly monitor: Monitor
  readonly machine: Machine
  readonly told: DriverState[]
  /** As it was last written. */
  record(): RunRecord | null
}

function scene(title: string, state: DriverState, body: (scene: Scene) => Promise<void>): void {
  test(title, async () => {
    const clock = virtualClock()
    const monitor = new Monitor()
    const told: DriverState[] = []
    let written: RunRecord | null = null
    const never = new Promise<never>(() => {})
    const host = {
      sockets: { connect: async () => monitor.connect() },
      files: {
        replace: async (_path: string, content: Uint8Array) => {
          written = parseRecord(new TextDecoder().decode(content))
        },
      },
      processes: { waitExit: () => never },
    } as unknown as QemuHost // of which a machine that stands still uses no more
    const { id, name, hardware } = testDomain()
    const process = { pid: 1, startTimeTicks: 1, bootId: 'test' }
    const sizes = { memoryBytes: 1, vcpuCount: 1 }
    const record = { version: 1, id, name, hardware, ...sizes, state, phase: { kind: 'live' }, process } as const
    const context = {
      ...{ host, clock, log: memoryLog(), monitorLimit: millis(1000), roomInterval: millis(INTERVAL_MS) },
      report: (_id: unknown, _kind: unknown, next: DriverState) => void told.push(next),
      exclusive: (_id: unknown, work: (signal: AbortSignal) => Promise<void>) => work(new AbortController().signal),
      ended: () => {},
    }
    const machine = new Machine(context, domainPaths({ runDir: '/run/tv', dataDir: '/var/tv' }, id), record, null)
    await body({ clock, monitor, machine, told, record: () => written })
    machine.release()
  })
}

scene('it is tried at a bounded pace, nothing is told of it until it goes on', DISK_FULL, async ({ clock, monitor, told }) => {
  await clock.advance(10 * INTERVAL_MS)
  assert.ok(monitor.contCount >= 8 && monitor.contCount <= 10, `tried ${monitor.contCount} times`)
  assert.deepEqual(told, [])
  monitor.write = 'succeeds'
  await clock.advance(3 * INTERVAL_MS)
  assert.deepEqual(told, [{ kind: 'running' }])
  const { contCount } = monitor
  await clock.advance(10 * INTERVAL_MS)
  assert.equal(monitor.contCount, contCount)
})

scene('a disk that fails otherwise meanwhile is told of, and not tried again', DISK_FULL, async ({ clock, monitor, told }) => {
  await clock.advance(2 * INTERVAL_MS)
  monitor.write = 'failed'
  await clock.advance(3 * INTERVAL_MS)
  const { contCount } = monitor
  await clock.advance(10 * INTERVAL_MS)
  assert.deepEqual([told, monitor.contCount], [[{ kind: 'running' }, { kind: 'paused', cause: 'io-error' }], contCount])
})

scene('one that is held stays, and its record says so', DISK_FULL, async ({ clock, monitor, machine, told, record }) => {
  await clock.advance(1)
  await machine.hold(true)
  assert.deepEqual(await machine.refresh(), REQUESTED)
  monitor.write = 'succeeds'
  await clock.advance(10 * INTERVAL_MS)
  assert.deepEqual([told, monitor.contCount, record()?.held, record()?.state], [[REQUESTED], 0, true, REQUESTED])
  await machine.hold(false)
  assert.equal(record()?.held, false)
})

scene('what stands still behind a save is left to whoever saved it', DISK_FULL, async ({ clock, monitor }) => {
  monitor.status = 'postmigrate'
  await clock.advance(10 * INTERVAL_MS)
  assert.equal(monitor.contCount, 0)
})

scene('a disk that failed otherwise is never tried', { kind: 'paused', cause: 'io-error' }, async ({ clock, monitor, told }) => {
  monitor.disk = 'failed'
  await clock.advance(10 * INTERVAL_MS)
  assert.deepEqual([monitor.contCount, told], [0, []])
})

scene(
  'one that was stopped while nobody watched is seen to be full, told of and tried',
  { kind: 'running' },
  async ({ clock, monitor, told }) => {
    await clock.advance(1)
    assert.deepEqual(told, [DISK_FULL])
    monitor.write = 'succeeds'
    await clock.advance(3 * INTERVAL_MS)
    assert.deepEqual(told, [DISK_FULL, { kind: 'running' }])
  },
)

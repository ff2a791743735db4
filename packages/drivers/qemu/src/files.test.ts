/** The formats that this package reads and writes: records, saves, qcow2 headers, port lists, the console log. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { promisify } from 'node:util'
import { epochMillis, Fault } from '@typevisor/base'
import type { DomainId } from '@typevisor/model'
import * as fc from 'fast-check'
import { oldestOffset, readConsoleLog, trimConsoleLog } from './console.ts'
import { hostForwardAdd, parseUserNet, setUpForwards } from './forwards.ts'
import { domainPaths } from './layout.ts'
import { parseBacking, readChain } from './qcow2-chain.ts'
import { findRecord, parseRecord, writeRecord, type RunRecord } from './record.ts'
import { decodeHeader, encodeHeader, savedMachine } from './save-file.ts'
import { silentLog, testDomain, testHost } from './testing.ts'

const { files } = testHost()

async function folderOf(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'tvq-'))
  t.after(() => rm(folder, { recursive: true }))
  return folder
}

const domain = testDomain({ volumes: { root: { kind: 'file', path: '/x', format: 'raw' } } })
const record: RunRecord = {
  version: 1,
  id: domain.id,
  name: domain.name,
  hardware: domain.hardware,
  memoryBytes: domain.spec.memoryBytes,
  vcpuCount: 1,
  phase: { kind: 'saving', path: '/x.save', wasRunning: true },
  process: { pid: 7, startTimeTicks: 99, bootId: 'b' },
  state: { kind: 'running' },
}

test('a record is read back as it was written, and what is no record is none', async (t) => {
  const path = join(await folderOf(t), 'domain.json')
  assert.deepEqual(await findRecord(files, path), { kind: 'none' })
  await writeRecord(files, path, record)
  assert.deepEqual(await findRecord(files, path), { kind: 'record', record })
  await writeFile(path, '')
  assert.deepEqual(await findRecord(files, path), { kind: 'unreadable', reason: 'it is no record, want version 1' })
  await writeFile(path, JSON.stringify({ ...record, version: 2 }))
  assert.deepEqual(await findRecord(files, path), { kind: 'unreadable', reason: 'it is of version 2, want version 1' })
  assert.equal((await findRecord(files, join(path, '..'))).kind, 'unreadable')
  const whole = JSON.stringify(record)
  for (let size = 0; size < whole.length; size += 1) assert.equal(parseRecord(whole.slice(0, size)), null)
  fc.assert(fc.property(fc.oneof(fc.json(), fc.string()), (text) => parseRecord(text) === null))
})

test('a save’s header is read back, and any byte of it that was changed is found', () => {
  const whose = savedMachine(files, {
    id: domain.id,
    hardware: domain.hardware,
    vcpuCount: 1,
    memoryBytes: domain.spec.memoryBytes,
  })
  const header = { ...whose, qemuVersion: 'x', savedAt: epochMillis(1), payloadBytes: 5, payloadSha256: 'ab' }
  const block = encodeHeader(files, header)
  assert.deepEqual(decodeHeader(files, '/x', block), header)
  const used = block.findLastIndex((byte) => byte !== 0) + 1
  for (let at = 0; at < used; at += 1) {
    const damaged = Uint8Array.from(block)
    damaged[at] = (damaged[at] ?? 0) ^ 0x20
    assert.throws(() => decodeHeader(files, '/x', damaged), { code: 'failed', message: /damaged/ })
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 5000 }), (noise) => {
      assert.throws(
        () => decodeHeader(files, '/x', noise),
        (error) => error instanceof Fault && error.code === 'failed',
      )
    }),
  )
})

test('what a guest sees of its devices is in the save; the host’s ports are not', () => {
  const of = (hardware: typeof domain.hardware) =>
    savedMachine(files, { id: domain.id, hardware, vcpuCount: 1, memoryBytes: 1 }).devicesSha256
  const { hardware } = domain
  const withPorts = hardware.devices.map((device) =>
    device.kind === 'nic' ? { ...device, forwards: [{ protocol: 'tcp', hostPort: 1, guestPort: 2 } as const] } : device,
  )
  assert.equal(of({ ...hardware, devices: withPorts }), of(hardware))
  const moved = hardware.devices.map((device) => (device.kind === 'nic' ? { ...device, address: '6.0' } : device))
  assert.notEqual(of({ ...hardware, devices: moved }), of(hardware))
})

test('the layers of a qcow2 disk are followed by name and format', async (t) => {
  const folder = await folderOf(t)
  const make = async (name: string, ...rest: string[]) =>
    promisify(execFile)('qemu-img', ['create', '-q', '-f', 'qcow2', ...rest, join(folder, name)], { cwd: folder })
  await writeFile(join(folder, 'base.raw'), new Uint8Array(1024 * 1024))
  await make('middle.qcow2', '-b', 'base.raw', '-F', 'raw')
  await make('top.qcow2', '-b', join(folder, 'middle.qcow2'), '-F', 'qcow2')
  assert.deepEqual(await readChain(files, join(folder, 'top.qcow2'), 'qcow2'), [
    { path: join(folder, 'top.qcow2'), format: 'qcow2' },
    { path: join(folder, 'middle.qcow2'), format: 'qcow2' },
    { path: join(folder, 'base.raw'), format: 'raw' },
  ])
  await rm(join(folder, 'base.raw'))
  await assert.rejects(readChain(files, join(folder, 'top.qcow2'), 'qcow2'), { code: 'failed', message: /no file .*base\.raw/ })
  await writeFile(join(folder, 'no.qcow2'), new Uint8Array(4096))
  await assert.rejects(readChain(files, join(folder, 'no.qcow2'), 'qcow2'), {
    code: 'failed',
    message: /magic 0x0, want 0x514649fb/,
  })
})

test('a qcow2 whose layers go in a circle, or that names something that is no file, is refused', async (t) => {
  const folder = await folderOf(t)
  const path = join(folder, 'loop.qcow2')
  const other = join(folder, 'other.qcow2')
  for (const [from, to] of [
    [path, other],
    [other, path],
  ] as const) {
    await promisify(execFile)('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', to, '-F', 'qcow2', from, '1M'])
  }
  await assert.rejects(readChain(files, path, 'qcow2'), { code: 'failed', message: /more than 32 layers/ })
  await promisify(execFile)('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', 'nbd://evil/x', '-F', 'raw', path, '1M'])
  await assert.rejects(readChain(files, path, 'qcow2'), { code: 'failed', message: /no plain file/ })
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 72, maxLength: 300 }), (noise) => {
      const header = Uint8Array.from(noise)
      header.set([0x51, 0x46, 0x49, 0xfb])
      try {
        parseBacking('/a/b.qcow2', header)
      } catch (error) {
        assert.ok(error instanceof Fault)
      }
    }),
  )
})

test('a base outside of the folders for disks is refused, whatever the header says', async (t) => {
  const folder = await folderOf(t)
  const path = join(folder, 'top.qcow2')
  for (const base of ['/etc/hostname', `${folder}/../../etc/hostname`, '../../etc/hostname']) {
    await promisify(execFile)('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', base, '-F', 'raw', path, '1M'])
    await assert.rejects(readChain(files, path, 'qcow2', [folder]), {
      code: 'forbidden',
      message: /outside of the folders for disks/,
    })
  }
  await writeFile(join(folder, 'base.raw'), new Uint8Array(512))
  await promisify(execFile)('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', path, '1M'])
  assert.equal((await readChain(files, path, 'qcow2', [folder])).length, 2)
})

test('ports are read from QEMU’s list, and only numbers go into its commands', () => {
  const list =
    'Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n' +
    '  TCP[HOST_FORWARD]  18       127.0.0.1 35261       10.0.2.15    80     0     0\r\n' +
    '  TCP[ESTABLISHED]   19       10.0.2.15 35262       1.2.3.4    81     0     0\r\n' +
    '  UDP[HOST_FORWARD]  19       127.0.0.1 58160       10.0.2.15    53     0     0\r\n'
  assert.deepEqual(parseUserNet(list), [
    { protocol: 'tcp', hostPort: 35261, guestPort: 80 },
    { protocol: 'udp', hostPort: 58160, guestPort: 53 },
  ])
  assert.equal(
    hostForwardAdd('nic0-link', { protocol: 'tcp', hostPort: 0, guestPort: 22 }),
    'hostfwd_add nic0-link tcp:127.0.0.1:0-:22',
  )
  for (const bad of [-1, 65536, 1.5, Number.NaN, '22 ; quit' as unknown as number]) {
    assert.throws(() => hostForwardAdd('nic0-link', { protocol: 'tcp', hostPort: bad, guestPort: 22 }), { code: 'invalid' })
    assert.throws(() => hostForwardAdd('nic0-link', { protocol: 'tcp', hostPort: 0, guestPort: bad }), { code: 'invalid' })
  }
})

test('a remembered port that is taken by now is replaced by a new one', async () => {
  const lines: string[] = []
  const monitor = async (line: string): Promise<string> => {
    lines.push(line)
    if (line === 'info usernet')
      return (
        'Hub -1 (port0-nic-link):\r\n  TCP[HOST_FORWARD]  17       127.0.0.1 5000       10.0.3.15    22     0     0\r\n' +
        'Hub -1 (nic0-link):\r\n  TCP[HOST_FORWARD]  18       127.0.0.1 4000       10.0.2.15    22     0     0\r\n'
      )
    return line.includes(':3000-') ? 'Could not set up host forwarding rule\r\n' : ''
  }
  const bound = await setUpForwards(
    { monitor },
    'nic0-link',
    [{ protocol: 'tcp', hostPort: 0, guestPort: 22 }],
    [{ protocol: 'tcp', hostPort: 3000, guestPort: 22 }],
  )
  assert.deepEqual(bound, [{ protocol: 'tcp', hostPort: 4000, guestPort: 22 }])
  assert.equal(lines.length, 3)
})

test('a path too long for a unix socket is refused with the length that would do, and an id that is no UUID too', () => {
  const dirs = { dataDir: '/d', runDir: `/${'r'.repeat(70)}` }
  assert.throws(() => domainPaths(dirs, domain.id), { code: 'invalid', message: /is 71 bytes long, want at most 55/ })
  for (const bad of ['../../etc', '', 'a/b', '-x'])
    assert.throws(() => domainPaths({ dataDir: '/d', runDir: '/r' }, bad as DomainId), { code: 'invalid' })
})

test('the console log is trimmed at the front, and what is left has the offsets it had', async (t) => {
  const folder = await folderOf(t)
  const paths = { consoleLog: join(folder, 'console.log'), consoleIndex: join(folder, 'console.json') }
  assert.deepEqual(await readConsoleLog(files, paths, 10, 100), { startOffset: 0, endOffset: 0, content: new Uint8Array(0) })
  const content = Uint8Array.from({ length: 100_000 }, (_, at) => (at * 7) % 251)
  await appendFile(paths.consoleLog, content)
  await trimConsoleLog(files, paths, 20_000, silentLog)
  const oldest = await oldestOffset(files, paths)
  assert.ok(oldest > 70_000 && oldest <= 80_000)
  const slice = await readConsoleLog(files, paths, 0, 1_000_000)
  assert.deepEqual([slice.startOffset, slice.endOffset], [oldest, 100_000])
  assert.deepEqual([...slice.content], [...content.subarray(oldest)])
  assert.deepEqual([...(await readConsoleLog(files, paths, 99_990, 5)).content], [...content.subarray(99_990, 99_995)])
  assert.equal((await readConsoleLog(files, paths, 200_000, 5)).startOffset, 100_000, 'past the end is the end')
  await trimConsoleLog(files, paths, 20_000, silentLog)
  assert.equal(await oldestOffset(files, paths), oldest, 'nothing to do a second time')
})

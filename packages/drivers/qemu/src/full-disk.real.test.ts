/**
 * A store without room under guests with Linux, whose disks are volumes over NBD on a small file system that others fill: the one guest waits
 * and goes on by itself, the other gets the error; what was written is whole. Needs root for the file system.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { promisify } from 'node:util'
import { millis } from '@typevisor/base'
import type { DiskFull } from '@typevisor/model'
import { fileCalls, lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { askServer, openVolumeFolder } from '@typevisor/storage'
import type { DriverDomain } from '@typevisor/toolstack'
import { bench, microImage, silentLog, testDomain, until, watch, type Bench } from './testing.ts'

const run = promisify(execFile)
const skip = process.getuid?.() === 0 ? false : 'a file system of its own needs root'
const MIB = 1024 * 1024
const LIMIT_MS = 120_000

/** Volumes `waits` and `fails` with an empty ext4 each. Beside the store's journal there is room for little. */
async function smallStore(t: TestContext) {
  const folder = await mkdtemp('/tmp/tvq-full-')
  await run('mount', ['-t', 'tmpfs', '-o', 'size=144m', 'tmpfs', folder])
  const closing = new AsyncDisposableStack()
  t.after(() => closing.disposeAsync())
  closing.defer(() => rm(folder, { recursive: true }))
  closing.defer(async () => void (await run('umount', ['-l', folder])))
  const dir = join(folder, 'disks')
  const parts = { clock: realClock(), rng: realRng(), log: silentLog, lock: lockFile, calls: fileCalls() }
  const store = await openVolumeFolder({ dir, create: true, ...parts })
  closing.defer(() => store.close())
  await store.answer({ version: 'test', stop: () => void store.close() })
  const server = await askServer(dir)
  assert.ok(server)
  closing.defer(() => server.close())
  const socketPathOf = (volume: string) => join(folder, `${volume}.sock`)
  const uriOf = (volume: string) => `nbd+unix:///${volume}?socket=${socketPathOf(volume)}`
  const empty = join(folder, 'empty.raw')
  await run('truncate', ['-s', '64M', empty])
  await run('mkfs.ext4', ['-q', empty])
  for (const volume of ['waits', 'fails']) {
    await server.call('create', { name: volume, sizeBytes: 64 * MIB })
    await server.call('attach', { volume, socketPath: socketPathOf(volume) })
    await run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', empty, uriOf(volume)])
  }
  await rm(empty)
  const filler = join(folder, 'filler')
  return {
    socketPathOf,
    uriOf,
    async leave(bytesLeft: number): Promise<void> {
      const { bavail, bsize } = await statfs(folder)
      await writeFile(filler, new Uint8Array(bavail * bsize - bytesLeft))
    },
    makeRoom: () => rm(filler),
  }
}

async function guest(b: Bench, name: string, diskFull: DiskFull, socketPath: string): Promise<DriverDomain> {
  const image = await microImage()
  const path = join(b.folder, `${name}.qcow2`)
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', image.rootDisk.path, '-F', image.rootDisk.format, path])
  const plain = testDomain({
    name,
    memoryMib: 192,
    boot: image.boot,
    volumes: { root: { kind: 'file', path, format: 'qcow2' }, data: { kind: 'nbd', socketPath, exportName: name } },
  })
  const domain = { ...plain, spec: { ...plain.spec, diskFull } }
  b.owns(domain)
  await b.driver.create(domain)
  await b.driver.unpause(domain.id)
  await until(async () => (await sh(b, domain, 'true').catch(() => null)) !== null, `${name} boots`, LIMIT_MS)
  await sh(b, domain, 'mkdir -p /mnt && mount /dev/vdb /mnt && dd if=/dev/urandom of=/run/source bs=64k count=384')
  return domain
}

/** What a shell line in the guest prints. */
async function sh(b: Bench, { id }: DriverDomain, line: string): Promise<string> {
  const { exitCode, stdout, stderr } = await b.driver.exec(id, { argv: ['/bin/sh', '-c', line], timeoutMs: LIMIT_MS })
  assert.equal(exitCode, 0, `${line}: ${new TextDecoder().decode(stderr)}`)
  return new TextDecoder().decode(stdout).trim()
}

const COPY = 'dd if=/run/source of=/mnt/copy bs=64k conv=fsync'
const SUMS = 'echo 3 >/proc/sys/vm/drop_caches; sha256sum </run/source; sha256sum </mnt/copy'

test(
  'a full store: who wants to wait is paused and goes on by itself with nothing lost, who wants the error gets it, reads go on',
  { skip },
  async (t) => {
    const b = await bench(t, { limits: { roomInterval: millis(200) } })
    const store = await smallStore(t)
    const events = watch(b.driver)
    const [waits, fails] = await Promise.all([
      guest(b, 'waits', 'pause', store.socketPathOf('waits')),
      guest(b, 'fails', 'error', store.socketPathOf('fails')),
    ])
    await store.leave(8 * MIB)
    await sh(b, waits, `(${COPY}; echo $? >/run/done) >/dev/null 2>&1 &`)
    const toldFull = () =>
      events.some(({ domain, state }) => domain === waits.id && state.kind === 'paused' && state.cause === 'disk-full')
    await until(toldFull, 'told of the full disk', LIMIT_MS)
    assert.deepEqual(await b.driver.state(waits.id), { kind: 'paused', cause: 'disk-full' })

    const before = await b.driver.statistics(fails.id)
    await sh(b, fails, 'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vdb of=/dev/null bs=64k count=256')
    const readBytes = ({ disks }: typeof before) => disks.find(({ name }) => name === 'data')?.readBytes ?? 0
    assert.ok(readBytes(await b.driver.statistics(fails.id)) - readBytes(before) >= 8 * MIB, 'reads of the full store')
    const refused = await b.driver.exec(fails.id, { argv: ['/bin/sh', '-c', COPY], timeoutMs: LIMIT_MS })
    assert.notEqual(refused.exitCode, 0)
    assert.match(new TextDecoder().decode(refused.stderr), /Input\/output error/)
    assert.deepEqual(await b.driver.state(fails.id), { kind: 'running' })
    assert.equal(await sh(b, fails, 'echo alive'), 'alive')

    await store.makeRoom()
    await until(async () => (await b.driver.state(waits.id)).kind === 'running', 'goes on by itself', LIMIT_MS)
    await until(
      async () => (await sh(b, waits, 'cat /run/done 2>/dev/null || echo').catch(() => '')) === '0',
      'the copy is done',
      LIMIT_MS,
    )
    const [source, copy] = (await sh(b, waits, SUMS)).split('\n')
    assert.equal(copy, source)
    await sh(b, waits, 'umount /mnt')
    // The disk of the one that got the error takes writes again as well.
    await sh(b, fails, 'umount /mnt; dd if=/run/source of=/dev/vdb bs=64k seek=128 count=64 conv=fsync')
    for (const { id } of [waits, fails]) await b.driver.destroy(id)

    const raw = join(b.folder, 'waits.raw')
    await run('qemu-img', ['convert', '-O', 'raw', '-f', 'raw', store.uriOf('waits'), raw])
    await run('e2fsck', ['-fn', raw])
  },
)

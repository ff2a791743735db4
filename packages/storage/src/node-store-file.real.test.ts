/** A store on real file systems: what is deleted is the file system's again, cold blocks are read beside the loop, and a full disk harms nothing. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm, stat, truncate, writeFile, statfs } from 'node:fs/promises'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { bytes, Fault, mib } from '@typevisor/base'
import { fileCalls, lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { memoryLog } from '@typevisor/sim'
import { nodeChecksum, nodeStoreFile, type FileCalls } from './node-store-file.ts'
import { initVolumeFolder, openVolumeFolder } from './node-volume-folder.ts'
import { Store, type StoreOptions } from './store/store.ts'
import { volumeDevice } from './store/volume-device.ts'
import { openedStore } from './testing/opened-store.ts'

const JOURNAL_BYTES = mib(1)

async function folder() {
  const dir = await mkdtemp(join(tmpdir(), 'typevisor-store-'))
  return { dir, [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) }
}

const optionsOf = (path: string, create: boolean): StoreOptions => ({
  file: nodeStoreFile({ path, create, calls: fileCalls() }),
  checksum: nodeChecksum,
  clock: realClock(),
  rng: realRng(),
  log: memoryLog(),
  journalBytes: JOURNAL_BYTES,
})

const fill = async (store: Store, name: string, sizeBytes: number, byte: number): Promise<void> => {
  const device = volumeDevice(store, name)
  for (let at = 0; at < sizeBytes; at += mib(1)) await device.write(at, new Uint8Array(mib(1)).fill(byte))
}

const takenBytes = async (path: string): Promise<number> => (await stat(path)).blocks * 512

/** At most ten seconds: what is freed is given back once a second. */
async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await holds()); tries += 1) {
    assert.ok(tries < 200, `it never came: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

test("what a guest discards, and what is deleted, is the file system's again", async (t) => {
  await using at = await folder()
  const path = join(at.dir, 'store')
  const store = await openedStore(t, Store.create(optionsOf(path, true)))
  await store.createVolume('kept', mib(8))
  await store.createVolume('gone', mib(64))
  await fill(store, 'kept', mib(8), 1)
  await fill(store, 'gone', mib(64), 2)
  await store.flush()
  assert.ok((await takenBytes(path)) > mib(72))
  await volumeDevice(store, 'gone').trim(0, mib(32))
  await until('half of it is given back', async () => (await takenBytes(path)) < mib(44))
  await store.remove('gone')
  await until('all of it is given back', async () => (await takenBytes(path)) < mib(12))
  await store.close()
  const again = await openedStore(t, Store.open(optionsOf(path, false)))
  const content = new Uint8Array(mib(8))
  await volumeDevice(again, 'kept').read(0, content)
  assert.ok(content.every((byte) => byte === 1))
  assert.deepEqual((await again.check({ readsData: true, repairs: false })).damage, [])
  await again.close()
})

test('a block that is not in the page cache is read beside the loop', async (t) => {
  await using at = await folder()
  const path = join(at.dir, 'store')
  const store = await openedStore(t, Store.create(optionsOf(path, true)))
  await store.createVolume('disk', mib(4))
  await fill(store, 'disk', mib(4), 7)
  await store.checkpoint()
  const device = volumeDevice(store, 'disk')
  const target = new Uint8Array(4096)
  assert.ok(device.now?.read(mib(1), 4096, target, 0), 'warm blocks are read at once')
  const dropped = spawnSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
  assert.equal(dropped.status, 0, dropped.stderr.toString())
  const isCold = !device.now?.read(mib(1), 4096, target, 0)
  if (!isCold) return t.skip('this file system keeps all of it in memory')
  target.fill(0)
  await device.read(mib(1), target)
  assert.ok(target.every((byte) => byte === 7))
  assert.ok(device.now?.read(mib(1), 4096, target, 0), 'it is warm by then')
  await store.close()
})

test('a read that fails is told to who waits for it, and what is cold is asked for without waiting ever after', async () => {
  await using at = await folder()
  const path = join(at.dir, 'store')
  const { EAGAIN, EIO, EINVAL } = constants.errno
  let answer = -EIO
  let askedCount = 0
  const readNoWait = (): number => {
    askedCount += 1
    return answer
  }
  const file = nodeStoreFile({ path, create: true, calls: { ...fileCalls(), readNoWait } as FileCalls })
  file.write(0, [new Uint8Array(4096).fill(7)])
  const target = new Uint8Array(4096)
  const now = () => file.readNow(0, target, 0, 4096)
  assert.equal(now(), false)
  answer = -EAGAIN
  assert.equal(now(), false)
  assert.equal(askedCount, 2)
  // A kernel that does not know how is not asked again.
  answer = -EINVAL
  assert.deepEqual([now(), now(), askedCount], [true, true, 3])
  assert.equal(target[0], 7)
  await file.close()
})

/** A file system of its own, of this size. A Fault where none can be mounted. */
async function smallDisk(size: string): Promise<({ readonly dir: string } | Fault) & AsyncDisposable> {
  const at = await folder()
  const dir = join(at.dir, 'small')
  await mkdir(dir)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'none', dir])
  const isMounted = mounted.status === 0
  const made = isMounted ? { dir } : new Fault('unsupported', `no file system can be mounted here: ${mounted.stderr.toString()}`)
  return Object.assign(made, {
    async [Symbol.asyncDispose]() {
      if (isMounted) spawnSync('umount', [dir])
      await at[Symbol.asyncDispose]()
    },
  })
}

test('a disk that others have filled refuses writes, keeps what was there, and goes on when there is room', async (t) => {
  await using small = await smallDisk('48m')
  if (small instanceof Fault) return t.skip(small.message)
  const disk = small.dir
  const path = join(disk, 'store')
  const store = await openedStore(t, Store.create(optionsOf(path, true)))
  await store.createVolume('disk', mib(64))
  await fill(store, 'disk', mib(8), 1)
  await store.flush()
  await writeFile(join(disk, 'others'), new Uint8Array(mib(30)).fill(9))
  let writtenBytes = mib(8)
  await assert.rejects(
    async () => {
      for (; writtenBytes < mib(64); writtenBytes = bytes(writtenBytes + mib(1)))
        await volumeDevice(store, 'disk').write(writtenBytes, new Uint8Array(mib(1)).fill(2))
    },
    (error) => error instanceof Fault && error.code === 'exhausted',
  )
  // What has no room is refused, over and over; nothing is wounded by it.
  for (let tries = 0; tries < 5; tries += 1) {
    await store.checkpoint().catch((error: unknown) => assert.equal((error as Fault).code, 'exhausted'))
    await store.flush()
  }
  const content = new Uint8Array(mib(8))
  await volumeDevice(store, 'disk').read(0, content)
  assert.ok(content.every((byte) => byte === 1))
  await rm(join(disk, 'others'))
  await volumeDevice(store, 'disk').write(writtenBytes, new Uint8Array(mib(1)).fill(2))
  await store.checkpoint()
  await store.close()
  const again = await openedStore(t, Store.open(optionsOf(path, false)))
  assert.deepEqual((await again.check({ readsData: true, repairs: false })).damage, [])
  await volumeDevice(again, 'disk').read(writtenBytes, content.subarray(0, mib(1)))
  assert.ok(content.subarray(0, mib(1)).every((byte) => byte === 2))
  await again.close()
})

test('random writes over a large volume until nothing is left: the checkpoint has its room, and a deletion makes more', async (t) => {
  await using small = await smallDisk('64m')
  if (small instanceof Fault) return t.skip(small.message)
  const path = join(small.dir, 'store')
  const store = await openedStore(t, Store.create({ ...optionsOf(path, true), journalBytes: mib(8) }))
  await store.createVolume('old', mib(64))
  await fill(store, 'old', mib(16), 9)
  const leafCount = 16_384
  await store.createVolume('web', mib(leafCount))
  const written = new Map<number, number>()
  /** 4 KiB, each in a mebibyte of its own, until it is refused. @returns how many were taken in. */
  const fillAtRandom = async (): Promise<number> => {
    const before = written.size
    for (;;) {
      const at = mib(realRng().below(leafCount))
      if (written.has(at)) continue
      try {
        await volumeDevice(store, 'web').write(at, new Uint8Array(4096).fill(written.size))
      } catch (error) {
        assert.ok(error instanceof Fault && error.code === 'exhausted', String(error))
        return written.size - before
      }
      written.set(at, written.size & 0xff)
    }
  }
  assert.ok((await fillAtRandom()) > 1000)
  assert.ok(store.state.dirtyNodeCount > 1000)
  await writeFile(join(small.dir, 'others'), new Uint8Array(mib(64))).catch(() => {})
  await store.checkpoint()
  await store.remove('old')
  await store.collected()
  let moreCount = 0
  await until('there is room again', async () => (moreCount += await fillAtRandom()) > 500)
  await store.checkpoint()
  await store.close()
  const again = await openedStore(t, Store.open(optionsOf(path, false)))
  assert.deepEqual((await again.check({ readsData: true, repairs: false })).damage, [])
  const content = new Uint8Array(4096)
  for (const [at, byte] of written) {
    await volumeDevice(again, 'web').read(at, content)
    assert.ok(content.every((each) => each === byte))
  }
  await again.close()
})

test('a full file system has room again when a volume was deleted, while it is served', async (t) => {
  await using small = await smallDisk('120m')
  if (small instanceof Fault) return t.skip(small.message)
  const disk = small.dir
  const parts = { lock: lockFile, calls: fileCalls(), clock: realClock(), rng: realRng(), log: memoryLog() }
  await using made = await openVolumeFolder({ ...parts, dir: join(disk, 'volumes'), create: true })
  const { store } = made.served
  await made.served.call('create', { name: 'old', sizeBytes: mib(256) })
  await assert.rejects(fill(store, 'old', mib(256), 1), (error) => error instanceof Fault && error.code === 'exhausted')
  await writeFile(join(disk, 'others'), new Uint8Array(mib(64)).fill(9)).catch(() => {})
  assert.equal((await statfs(disk)).bavail, 0)
  // Also what the last write had begun with.
  await assert.rejects(
    async () => {
      for (let at = mib(128); ; at = bytes(at + 4096)) await volumeDevice(store, 'old').write(at, new Uint8Array(4096).fill(3))
    },
    (error) => error instanceof Fault && error.code === 'exhausted',
  )
  await made.served.call('remove', { name: 'old' })
  const end = performance.now() + 60_000
  while ((await made.served.call('usage', {})).usedBytes > mib(80)) {
    assert.ok(performance.now() < end, 'nothing was given back')
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  await made.served.call('create', { name: 'new', sizeBytes: mib(64) })
  // What was freed is given back to the file system within a second or two.
  for (;;) {
    const refused = await fill(store, 'new', mib(16), 2).then(
      () => null,
      (error: unknown) => error,
    )
    if (refused === null) break
    assert.ok(refused instanceof Fault && refused.code === 'exhausted' && performance.now() < end, String(refused))
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  await store.flush()
})

test('a block device holds a store; one that is not empty is left as it is', async () => {
  await using at = await folder()
  const image = join(at.dir, 'image')
  await writeFile(image, '')
  await truncate(image, mib(96))
  const device = spawnSync('losetup', ['--find', '--show', image]).stdout.toString().trim()
  assert.match(device, /^\/dev\/loop/)
  try {
    const parts = { lock: lockFile, calls: fileCalls(), clock: realClock(), rng: realRng(), log: memoryLog() }
    const dir = join(at.dir, 'volumes')
    assert.deepEqual(await initVolumeFolder({ ...parts, dir, device }), { sizeBytes: mib(96) })
    {
      await using made = await openVolumeFolder({ ...parts, dir, create: false })
      await made.served.call('create', { name: 'disk', sizeBytes: mib(16) })
      await fill(made.served.store, 'disk', mib(8), 5)
      assert.ok((await made.served.call('usage', {})).availableBytes < mib(90))
      await assert.rejects(
        async () => void nodeStoreFile({ path: device }),
        (error) => error instanceof Fault && error.code === 'conflict',
      )
    }
    await using again = await openVolumeFolder({ ...parts, dir, create: false })
    const content = new Uint8Array(mib(8))
    await volumeDevice(again.served.store, 'disk').read(0, content)
    assert.ok(content.every((byte) => byte === 5))
    await again.close()
    await assert.rejects(
      initVolumeFolder({ ...parts, dir: join(at.dir, 'others'), device }),
      (error) => error instanceof Fault && error.code === 'conflict' && /something on it/.test(error.message),
    )
  } finally {
    spawnSync('losetup', ['--detach', device])
  }
})

test('a store whose maker was killed is made anew', async () => {
  await using at = await folder()
  const parts = { lock: lockFile, calls: fileCalls(), clock: realClock(), rng: realRng(), log: memoryLog() }
  const dir = join(at.dir, 'volumes')
  await mkdir(dir)
  await writeFile(join(dir, 'store.new'), new Uint8Array(mib(1)).fill(7))
  {
    await using made = await openVolumeFolder({ ...parts, dir, create: true })
    await made.served.call('create', { name: 'disk', sizeBytes: mib(16) })
  }
  assert.deepEqual((await readdir(dir)).toSorted(), ['lock', 'store'])
  await using again = await openVolumeFolder({ ...parts, dir, create: false })
  assert.equal(again.served.store.get('disk')?.sizeBytes, mib(16))
})

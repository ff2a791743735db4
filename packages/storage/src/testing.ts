/** What every volume store must do, whatever is behind it. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { bytes, Fault, mib, type BlockDevice } from '@typevisor/base'
import { parseVolumeId, type VolumeId } from '@typevisor/model'
import { fileOf, type VolumeInfo, type VolumeSnapshots, type VolumeStore } from './ports.ts'

export { memoryVolumeStore, type MemoryVolumeOptions } from './memory.ts'

/** A disk as a guest has it. */
export type OpenDisk = Pick<BlockDevice, 'read' | 'write' | 'flush'> & AsyncDisposable

export interface VolumeStoreUnderTest {
  readonly store: VolumeStore
  /** A base of 64 MiB that is there. */
  readonly base: { readonly path: string; readonly format: 'qcow2' | 'raw' }
  readonly missingBase: { readonly path: string; readonly format: 'qcow2' | 'raw' }
  /** Sizes of disks are multiples of it; 512 where it is not said. */
  readonly unitBytes?: number
  /** Where the store has snapshots: opens a disk as a guest does. */
  readonly open?: (volume: VolumeInfo) => Promise<OpenDisk>
  close(): Promise<void>
}

const isDisk = ({ source }: VolumeInfo): boolean => source.kind === 'nbd' || source.format === 'qcow2'

const idOf = (index: number, suffix = ''): VolumeId =>
  parseVolumeId(`01890000-0000-7000-8000-${String(index).padStart(12, '0')}${suffix}`)

export function volumeStoreConformance(
  name: string,
  make: () => Promise<VolumeStoreUnderTest>,
  skip: string | false = false,
): void {
  const test = (title: string, body: (under: VolumeStoreUnderTest) => Promise<void>): void => {
    it(title, { skip }, async () => {
      const under = await make()
      try {
        await body(under)
      } finally {
        await under.close()
      }
    })
  }
  describe(`volume store: ${name}`, () => {
    test('a clone has the size that was asked for and is found again', async ({ store, base }) => {
      const made = await store.clone(idOf(1), base, mib(100))
      assert.equal(made.virtualBytes, mib(100))
      assert.ok(isDisk(made))
      assert.equal(made.basePath, base.path)
      assert.deepEqual(await store.get(idOf(1)), made)
      assert.deepEqual(await store.list(), [made])
    })
    test('a disk of zeros has its size, stands by itself, and is made once', async ({ store }) => {
      const made = await store.create(idOf(1), mib(8))
      assert.deepEqual([made.virtualBytes, made.basePath], [mib(8), null])
      assert.deepEqual(await store.create(idOf(1), mib(16)), made)
      await store.put(idOf(2), Uint8Array.of(1))
      await rejects(store.create(idOf(2), mib(8)), 'conflict')
    })
    test('cloning twice is cloning once', async ({ store, base }) => {
      const first = await store.clone(idOf(1), base, mib(100))
      assert.deepEqual(await store.clone(idOf(1), base, mib(200)), first)
      const both = await Promise.all([store.clone(idOf(2), base, mib(64)), store.clone(idOf(2), base, mib(64))])
      assert.deepEqual(both[0], both[1])
      assert.equal((await store.list()).length, 2)
    })
    test('a clone is never smaller than its base', async ({ store, base }) => {
      await rejects(store.clone(idOf(1), base, mib(63)), 'invalid')
      assert.equal(await store.get(idOf(1)), null)
    })
    test('a size is rounded up to whole sectors', async ({ store, base, unitBytes = 512 }) => {
      assert.equal((await store.clone(idOf(1), base, bytes(mib(64) + 1))).virtualBytes, mib(64) + unitBytes)
    })
    test('a base that is not there is not found, and nothing is left', async ({ store, missingBase }) => {
      await rejects(store.clone(idOf(1), missingBase, mib(64)), 'not_found')
      assert.deepEqual(await store.list(), [])
    })
    test('a base by a relative path is refused', async ({ store }) => {
      await rejects(store.clone(idOf(1), { path: 'nbd:localhost:1', format: 'raw' }, mib(64)), 'invalid')
    })
    test('an id that is no id is refused before anything is touched', async ({ store, base }) => {
      for (const hostile of ['', '../x', '-x', 'a,if=none', '01890000-0000-7000-8000-000000000001/..', 'json:{}']) {
        const id = hostile as VolumeId // a caller that went round the parser
        await rejects(
          Promise.resolve().then(() => store.clone(id, base, mib(64))),
          'invalid',
        )
        await rejects(
          Promise.resolve().then(() => store.put(id, Uint8Array.of(1))),
          'invalid',
        )
        await rejects(
          Promise.resolve().then(() => store.remove(id)),
          'invalid',
        )
      }
    })
    test('an empty disk is made once, and grows', async ({ store, unitBytes = 512 }) => {
      const made = await store.create(idOf(1, '.data'), bytes(mib(64) + 1))
      assert.deepEqual([made.virtualBytes, made.basePath, isDisk(made)], [mib(64) + unitBytes, null, true])
      assert.deepEqual(await store.create(idOf(1, '.data'), mib(1)), made)
      assert.equal((await store.grow(idOf(1, '.data'), mib(100))).virtualBytes, mib(100))
      assert.equal((await store.grow(idOf(1, '.data'), mib(100))).virtualBytes, mib(100))
      assert.equal((await store.get(idOf(1, '.data')))?.virtualBytes, mib(100))
      await rejects(store.grow(idOf(1, '.data'), mib(99)), 'invalid')
      await rejects(store.grow(idOf(2), mib(99)), 'not_found')
      await store.put(idOf(3), Uint8Array.of(1))
      await rejects(store.grow(idOf(3), mib(99)), 'unsupported')
      await rejects(store.create(idOf(3), mib(99)), 'conflict')
      assert.deepEqual(
        (await store.list({ prefix: `${idOf(1)}.` })).map(({ id }) => id),
        [idOf(1, '.data')],
      )
    })
    test('a small file becomes a raw volume of whole sectors, once', async ({ store }) => {
      const made = await store.put(idOf(1, '.seed'), new Uint8Array(700).fill(7))
      assert.equal(fileOf(made).format, 'raw')
      assert.equal(made.virtualBytes, 1024)
      assert.deepEqual(await store.put(idOf(1, '.seed'), Uint8Array.of(1)), made)
      await rejects(store.put(idOf(2), new Uint8Array(0)), 'invalid')
    })
    test('one id is not two kinds of volume', async ({ store, base }) => {
      await store.put(idOf(1), Uint8Array.of(1))
      await rejects(store.clone(idOf(1), base, mib(64)), 'conflict')
      await store.clone(idOf(2), base, mib(64))
      await rejects(store.put(idOf(2), Uint8Array.of(1)), 'conflict')
    })
    test('what is removed is gone, and removing is idempotent', async ({ store, base }) => {
      await store.clone(idOf(1), base, mib(64))
      await store.remove(idOf(1))
      await store.remove(idOf(1))
      assert.equal(await store.get(idOf(1)), null)
      await store.clone(idOf(1), base, mib(64))
    })
    test('an abort before the work leaves nothing', async ({ store, base }) => {
      await assert.rejects(store.clone(idOf(1), base, mib(64), { signal: AbortSignal.abort(new Fault('aborted', 'no more')) }))
      assert.deepEqual(await store.list(), [])
    })
    test('many at once do not disturb each other', async ({ store, base }) => {
      const ids = Array.from({ length: 12 }, (_, index) => idOf(index))
      await Promise.all(
        ids.map((id, index) => (index % 3 === 0 ? store.put(id, Uint8Array.of(index)) : store.clone(id, base, mib(64)))),
      )
      assert.deepEqual(
        (await store.list()).map((each) => each.id),
        ids,
      )
      await Promise.all(ids.map((id) => store.remove(id)))
      assert.deepEqual(await store.list(), [])
    })
    test('what is written to an opened volume is read from it, holes are told, and it is free at once afterwards', async ({
      store,
    }) => {
      if (!store.open) return
      await store.create(idOf(1, '.data'), mib(8))
      {
        await using disk = await store.open(idOf(1, '.data'))
        assert.equal(disk.sizeBytes, mib(8))
        await disk.write(mib(1), new Uint8Array(8192).fill(7))
        await disk.flush()
      }
      {
        await using disk = await store.open(idOf(1, '.data'))
        const content = new Uint8Array(4096)
        await disk.read(mib(1) + 4096, content)
        assert.ok(content.every((byte) => byte === 7))
        const extents = await disk.extents(mib(2), mib(6), 10)
        assert.ok(extents.every(({ zero }) => zero))
      }
      await store.grow(idOf(1, '.data'), mib(16))
      await store.remove(idOf(1, '.data'))
      await rejects(store.open(idOf(1, '.data')), 'not_found')
    })
    snapshotConformance(test)
  })
}

interface WithSnapshots extends VolumeStoreUnderTest {
  readonly snapshots: VolumeSnapshots
  readonly open: NonNullable<VolumeStoreUnderTest['open']>
}

/** For stores that have snapshots; where one has none, its `snapshots` must be absent and nothing is asked. */
function snapshotConformance(test: (title: string, body: (under: VolumeStoreUnderTest) => Promise<void>) => void): void {
  const of = (snapshot: string, volume = idOf(1)) => ({ volume, snapshot })
  const withSnapshots = (title: string, body: (under: WithSnapshots) => Promise<void>): void =>
    test(title, async (under) => {
      const { snapshots } = under.store
      assert.equal(snapshots === undefined, under.open === undefined)
      if (snapshots && under.open) await body({ ...under, snapshots, open: under.open })
    })
  const write = async ({ open, store }: WithSnapshots, id: VolumeId, byte: number): Promise<void> => {
    await using disk = await open((await store.get(id)) as VolumeInfo) // made by the test
    await disk.write(mib(1), new Uint8Array(4096).fill(byte))
    await disk.flush()
  }
  const byteOf = async ({ open, store }: WithSnapshots, id: VolumeId): Promise<number | undefined> => {
    await using disk = await open((await store.get(id)) as VolumeInfo) // made by the test
    const content = new Uint8Array(4096)
    await disk.read(mib(1), content)
    assert.ok(content.every((byte) => byte === content[0]))
    return content[0]
  }

  withSnapshots('a volume is again as its snapshot is, and goes on from there', async (under) => {
    const { store, base, snapshots } = under
    await store.clone(idOf(1), base, mib(100))
    await write(under, idOf(1), 1)
    await snapshots.take(of('one'))
    await write(under, idOf(1), 2)
    await snapshots.take(of('two'))
    await write(under, idOf(1), 3)
    await snapshots.revert(of('one'))
    await snapshots.revert(of('one'))
    assert.equal(await byteOf(under, idOf(1)), 1)
    await snapshots.revert(of('two'))
    assert.equal(await byteOf(under, idOf(1)), 2)
    assert.deepEqual((await snapshots.list(idOf(1))).toSorted(), ['one', 'two'])
    assert.equal((await store.get(idOf(1)))?.basePath, base.path)
  })
  withSnapshots('taking a snapshot twice is taking it once, at the first time', async (under) => {
    const { store, base, snapshots } = under
    await store.clone(idOf(1), base, mib(64))
    await write(under, idOf(1), 1)
    await Promise.all([snapshots.take(of('one')), snapshots.take(of('one'))])
    await write(under, idOf(1), 2)
    await snapshots.take(of('one'))
    await snapshots.revert(of('one'))
    assert.equal(await byteOf(under, idOf(1)), 1)
  })
  withSnapshots('a clone of a snapshot begins as it is, and neither sees what the other writes', async (under) => {
    const { store, base, snapshots } = under
    await store.clone(idOf(1), base, mib(100))
    await write(under, idOf(1), 1)
    await snapshots.take(of('one'))
    const made = await snapshots.clone(idOf(2), of('one'))
    assert.deepEqual(await snapshots.clone(idOf(2), of('one')), made)
    assert.equal(made.virtualBytes, mib(100))
    await write(under, idOf(1), 3)
    await write(under, idOf(2), 4)
    assert.deepEqual([await byteOf(under, idOf(1)), await byteOf(under, idOf(2))], [3, 4])
    assert.deepEqual(await snapshots.list(idOf(2)), [])
    assert.deepEqual(
      (await store.list()).map(({ id }) => id),
      [idOf(1), idOf(2)],
    )
  })
  withSnapshots('snapshots outlive their volume, clones their snapshot', async (under) => {
    const { store, base, snapshots } = under
    await store.clone(idOf(1), base, mib(64))
    await write(under, idOf(1), 1)
    await snapshots.take(of('one'))
    await store.remove(idOf(1))
    assert.equal(await store.get(idOf(1)), null)
    assert.deepEqual(await snapshots.list(idOf(1)), ['one'])
    await snapshots.clone(idOf(2), of('one'))
    await snapshots.remove(of('one'))
    await snapshots.remove(of('one'))
    assert.deepEqual(await snapshots.list(idOf(1)), [])
    assert.equal(await byteOf(under, idOf(2)), 1)
  })
  withSnapshots('a volume that is in use is not reverted, and a snapshot of it is of what was written', async (under) => {
    const { store, base, snapshots, open } = under
    const made = await store.clone(idOf(1), base, mib(64))
    {
      await using disk = await open(made)
      await disk.write(mib(1), new Uint8Array(4096).fill(5))
      await snapshots.take(of('one'))
      await disk.write(mib(1), new Uint8Array(4096).fill(6))
      await rejects(snapshots.revert(of('one')), 'conflict')
    }
    await snapshots.revert(of('one'))
    assert.equal(await byteOf(under, idOf(1)), 5)
  })
  withSnapshots('what is not there is not found, and a file has no snapshots', async ({ store, base, snapshots }) => {
    await store.clone(idOf(1), base, mib(64))
    await store.put(idOf(3), Uint8Array.of(1))
    await rejects(snapshots.take(of('one', idOf(2))), 'not_found')
    await rejects(snapshots.revert(of('one')), 'not_found')
    await rejects(snapshots.clone(idOf(2), of('one')), 'not_found')
    await rejects(snapshots.take(of('one', idOf(3))), 'unsupported')
    for (const hostile of ['', '@', 'a@b', '../x', 'a b']) await rejects(snapshots.take(of(hostile)), 'invalid')
    assert.deepEqual(await snapshots.list(idOf(1)), [])
    assert.equal(await store.get(idOf(2)), null)
  })
}

async function rejects(work: Promise<unknown>, code: string): Promise<void> {
  await assert.rejects(work, (error) => {
    assert.ok(error instanceof Fault, `got ${String(error)}, want Fault ${code}`)
    assert.equal(error.code, code, error.message)
    return true
  })
}

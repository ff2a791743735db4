/** What every volume store must do, whatever is behind it. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { bytes, Fault, mib } from '@typevisor/base'
import { parseVolumeId, type VolumeId } from '@typevisor/model'
import { fileOf, type VolumeStore } from './ports.ts'

export { memoryVolumeStore, type MemoryVolumeOptions } from './memory.ts'

export interface VolumeStoreUnderTest {
  readonly store: VolumeStore
  /** A base of 64 MiB that is there. */
  readonly base: { readonly path: string; readonly format: 'qcow2' | 'raw' }
  readonly missingBase: { readonly path: string; readonly format: 'qcow2' | 'raw' }
  close(): Promise<void>
}

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
      assert.equal(fileOf(made).format, 'qcow2')
      assert.deepEqual(await store.get(idOf(1)), made)
      assert.deepEqual(await store.list(), [made])
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
    test('a size is rounded up to whole sectors', async ({ store, base }) => {
      assert.equal((await store.clone(idOf(1), base, bytes(mib(64) + 1))).virtualBytes, mib(64) + 512)
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
  })
}

async function rejects(work: Promise<unknown>, code: string): Promise<void> {
  await assert.rejects(work, (error) => {
    assert.ok(error instanceof Fault, `got ${String(error)}, want Fault ${code}`)
    assert.equal(error.code, code, error.message)
    return true
  })
}

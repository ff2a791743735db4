import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import type { DomainId } from '@typevisor/model'
import { saveFolder } from './save-folder.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId

test('a file is written whole or not at all, read back as it was, and goes with its domain', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tv-saves-'))
  try {
    const saves = saveFolder(folder)
    const path = saves.pathOf(ID, 'one')
    const content = Buffer.alloc(3 * 1024 * 1024 + 5, 'memory')
    const parts = async function* (broken: boolean): AsyncGenerator<Uint8Array, void, undefined> {
      yield content.subarray(0, 100_000)
      if (broken) throw new Fault('unavailable', 'the other side has gone')
      yield content.subarray(100_000)
    }
    await assert.rejects(saves.write(path, parts(true)), /has gone/)
    assert.deepEqual(await readdir(folder), [])
    assert.deepEqual(await saves.write(path, parts(false)), { sizeBytes: content.length })
    assert.ok(Buffer.concat(await Array.fromAsync(saves.read(path))).equals(content))
    await assert.rejects(Array.fromAsync(saves.read(saves.pathOf(ID, 'two'))), { code: 'not_found' })
    await saves.write(saves.pathOf(ID, 'two'), parts(false))
    await saves.keepOnly(ID, [path])
    assert.equal((await readdir(folder)).length, 1)
    await saves.keepOnly(ID, [])
    assert.deepEqual(await readdir(folder), [])
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

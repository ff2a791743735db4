import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { diskConformance } from '@typevisor/sim/testing'
import { nodeDisk } from './disk.ts'

diskConformance('nodeDisk', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tv-disk-'))
  return {
    disk: nodeDisk(folder),
    reopen: async () => nodeDisk(folder),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true }),
  }
})

test('what an unfinished replace left is neither listed nor in the way', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tv-disk-'))
  await writeFile(join(folder, 'state.replace-tmp'), 'torn')
  const disk = nodeDisk(folder)
  assert.deepEqual(await disk.list(), [])
  await disk.replace('state', new TextEncoder().encode('x'))
  assert.deepEqual(await readdir(folder), ['state'])
  await rm(folder, { recursive: true })
})

test('a full device is Fault exhausted', async (t) => {
  // /dev/full answers every write with ENOSPC.
  const disk = nodeDisk('/dev')
  const file = await disk.open('full').catch((error: unknown) => error as Fault)
  if (file instanceof Fault) return t.skip(file.message)
  await assert.rejects(file.append(new Uint8Array(8)), (error) => error instanceof Fault && error.code === 'exhausted')
  await file.close()
})

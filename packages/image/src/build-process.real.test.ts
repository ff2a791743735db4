import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { epochMillis, Fault } from '@typevisor/base'
import { parseImageName } from '@typevisor/model'
import { withBuildProcess } from './node-build-process.ts'
import { createImageStore } from './node-image-store.ts'
import type { ImageStore } from './ports.ts'

let folder: string
let store: ImageStore
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'typevisor-build-'))
  const cacheFolder = process.getuid?.() === 0 ? '/var/cache/typevisor' : join(process.env['HOME'] ?? '/', '.cache/typevisor')
  store = withBuildProcess(createImageStore({ folder, cacheFolder, clock: { now: () => epochMillis(Date.now()) } }), {
    folder,
    cacheFolder,
  })
})
after(() => rm(folder, { recursive: true, force: true }))

test('an image built in a process of its own is in the store, with progress on the way; two builds at once give one', async () => {
  const fractions: number[] = []
  const [first, second] = await Promise.all([
    store.build(parseImageName('micro'), { progress: (fraction) => fractions.push(fraction) }),
    store.build(parseImageName('micro')),
  ])
  assert.equal(first.digest, second.digest)
  assert.deepEqual(await store.get(parseImageName('micro')), second)
  assert.ok(fractions.length > 2 && fractions.every((fraction) => fraction >= 0 && fraction <= 1))
})

test('a fault of the build comes with its code', async () => {
  await assert.rejects(
    store.build(parseImageName('nothing')),
    (error) => error instanceof Fault && error.code === 'not_found' && /no such recipe/.test(error.message),
  )
})

test('an aborted build leaves no half image', async () => {
  const stop = new AbortController()
  await assert.rejects(
    store.build(parseImageName('micro'), { signal: stop.signal, progress: () => stop.abort(new Fault('aborted', 'withdrawn')) }),
    (error) => error instanceof Fault && error.code === 'aborted',
  )
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.startsWith('.work-')),
    [],
  )
})

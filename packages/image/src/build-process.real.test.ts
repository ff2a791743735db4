import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { after, before, test } from 'node:test'
import { epochMillis, Fault } from '@typevisor/base'
import { parseImageName } from '@typevisor/model'
import { withBuildProcess } from './node-build-process.ts'
import { createImageStore } from './node-image-store.ts'
import type { ImageStore } from './ports.ts'

let folder: string
let store: ImageStore
let inUse = async (_version: string) => true
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'typevisor-build-'))
  const cacheFolder = process.getuid?.() === 0 ? '/var/cache/typevisor' : join(process.env['HOME'] ?? '/', '.cache/typevisor')
  const clock = { now: () => epochMillis(Date.now()) }
  const images = createImageStore({ folder, cacheFolder, clock, inUse: (version) => inUse(version) })
  store = withBuildProcess(images, { folder, cacheFolder })
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

test('a version that nobody holds is gone after a build, one that is held stays', async () => {
  const [held, free] = ['a', 'b'].map((digit) => join(folder, 'micro', digit.repeat(32))) as [string, string]
  for (const version of [held, free]) await mkdir(version, { recursive: true })
  inUse = async (version) => version === held
  await store.build(parseImageName('micro'))
  const left = await readdir(join(folder, 'micro'))
  assert.deepEqual(
    [held, free].map((version) => left.includes(basename(version))),
    [true, false],
  )
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

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { epochMillis, Fault } from '@typevisor/base'
import { parseImageName } from '@typevisor/model'
import { withBuildProcess } from './node-build-process.ts'
import { createImageStore } from './node-image-store.ts'
import type { ImageStore } from './ports.ts'

const cacheFolder = process.getuid?.() === 0 ? '/var/cache/typevisor' : join(process.env['HOME'] ?? '/', '.cache/typevisor')
const parts = { cacheFolder, clock: { now: () => epochMillis(Date.now()) } }
let folder: string
let store: ImageStore
let inUse = async (_version: string) => true
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'typevisor-build-'))
  const images = createImageStore({ ...parts, folder, inUse: (version) => inUse(version) })
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

test('of two processes that make the same version the later one keeps what is there by then', async () => {
  const own = await mkdtemp(join(tmpdir(), 'typevisor-builds-'))
  try {
    // Two stores know nothing of each other, as two processes.
    const folders = await Promise.all(
      [0, 1].map(async () => {
        const image = await createImageStore({ ...parts, folder: own }).build(parseImageName('micro'))
        return (await stat(dirname(image.rootDisk.path))).ino
      }),
    )
    assert.equal(folders[0], folders[1], 'the folder that the first one answered with is still that folder')
    assert.deepEqual(
      (await readdir(own)).filter((name) => name.startsWith('.')),
      [],
    )
  } finally {
    await rm(own, { recursive: true, force: true })
  }
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

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault, mib } from '@typevisor/base'
import { parseVolumeId } from '@typevisor/model'
import { memoryVolumeStore } from './memory.ts'
import { nodeCommandRunner } from './node-command.ts'
import { nodeVolumeFiles } from './node-files.ts'
import { fileOf, type CommandRunner } from './ports.ts'
import { openImage } from './node-image-device.ts'
import { qcow2VolumeStore } from './qcow2.ts'
import { volumeStoreConformance } from './testing.ts'

const noQemuImg = spawnSync('qemu-img', ['--version']).status === 0 ? false : 'qemu-img is missing: install qemu-utils'
const id = parseVolumeId('01890000-0000-7000-8000-000000000001')

/** Hostile on purpose: qemu-img would read `:` as a protocol and `,` as the next option. */
const FOLDER = 'a:b,if=none volumes'

async function world(runner: CommandRunner = nodeCommandRunner()) {
  const root = await mkdtemp(join(tmpdir(), 'typevisor-volumes-'))
  const folder = join(root, FOLDER)
  await mkdir(join(root, 'nbd:x,y'), { recursive: true })
  const base = { path: join(root, 'nbd:x,y', 'base.raw'), format: 'raw' as const }
  await writeFile(base.path, new Uint8Array(mib(64)))
  const openFile = (path: string, format: 'qcow2' | 'raw') => openImage(runner, path, format)
  const store = qcow2VolumeStore({ files: await nodeVolumeFiles({ folder }), runner, openFile })
  return {
    root,
    folder,
    base,
    store,
    missingBase: { path: join(root, 'none.raw'), format: 'raw' as const },
    close: () => rm(root, { recursive: true, force: true }),
  }
}

volumeStoreConformance('qcow2 files by qemu-img', () => world(), noQemuImg)
volumeStoreConformance('memory', async () => {
  const store = memoryVolumeStore({ bases: new Map([['/images/base.raw', mib(64)]]) })
  return {
    store,
    base: { path: '/images/base.raw', format: 'raw' },
    missingBase: { path: '/images/none.raw', format: 'raw' },
    open: ({ id: volume }) => store.open(volume),
    close: async () => {},
  }
})

test('an overlay names its base and format, and qemu-img finds it sound', { skip: noQemuImg }, async () => {
  const { store, base, close } = await world()
  try {
    const made = await store.clone(id, base, mib(80))
    const info = JSON.parse(spawnSync('qemu-img', ['info', '--output=json', `file:${fileOf(made).path}`]).stdout.toString())
    assert.equal(info['full-backing-filename'], base.path)
    assert.equal(info['backing-filename-format'], 'raw')
    assert.equal(spawnSync('qemu-img', ['check', `file:${fileOf(made).path}`]).status, 0)
    assert.equal((await stat(fileOf(made).path)).mode & 0o777, 0o600)
  } finally {
    await close()
  }
})

test('what was put is there byte for byte, padded with zeros', { skip: noQemuImg }, async () => {
  const { store, close } = await world()
  try {
    const made = await store.put(id, new TextEncoder().encode('seed'))
    const content = await readFile(fileOf(made).path)
    assert.equal(content.subarray(0, 4).toString(), 'seed')
    assert.ok(content.subarray(4).every((byte) => byte === 0))
  } finally {
    await close()
  }
})

test('a full disk is told as such, and no half volume is left', async () => {
  const full: CommandRunner = {
    async run(argv) {
      if (argv[1] === 'info') return { exitCode: 0, stdout: new TextEncoder().encode('{"virtual-size":67108864}'), stderr: '' }
      await writeFile(String(argv.at(-2)).slice('file:'.length), 'half')
      return { exitCode: 1, stdout: new Uint8Array(0), stderr: 'qemu-img: file: Could not write: No space left on device\n' }
    },
  }
  const { store, base, folder, close } = await world(full)
  try {
    await assert.rejects(store.clone(id, base, mib(64)), (error) => error instanceof Fault && error.code === 'exhausted')
    assert.deepEqual(await readdir(folder), [])
  } finally {
    await close()
  }
})

test('what a killed process left half-made is taken away', { skip: noQemuImg }, async () => {
  const { store, folder, close } = await world()
  try {
    await writeFile(join(folder, `.new-0-${id}.qcow2`), 'half')
    assert.deepEqual(await store.list(), [])
    assert.deepEqual(await readdir(folder), [])
  } finally {
    await close()
  }
})

test("a base that is no disk image is a fault with the tool's words", { skip: noQemuImg }, async () => {
  const { store, root, close } = await world()
  try {
    const path = join(root, 'no.qcow2')
    await writeFile(path, 'not an image')
    await assert.rejects(
      store.clone(id, { path, format: 'qcow2' }, mib(64)),
      (error) => error instanceof Fault && error.code === 'failed' && /qcow2/.test(error.message),
    )
  } finally {
    await close()
  }
})

test('a program that is missing is named with its Debian package', async () => {
  const missing = nodeCommandRunner().run(['qemu-img', '--version'], { env: { PATH: '/nonexistent' } })
  await assert.rejects(
    missing,
    (error) =>
      error instanceof Fault &&
      error.code === 'failed' &&
      /run qemu-img: ENOENT; install the Debian package qemu-utils/.test(error.message),
  )
})

test('an abort ends the program', async () => {
  const stop = new AbortController()
  const waiting = nodeCommandRunner().run(['sleep', '60'], { signal: stop.signal })
  setTimeout(() => stop.abort(new Fault('aborted', 'enough')), 50)
  await assert.rejects(waiting, (error) => error instanceof Fault && error.code === 'aborted')
})

test('an opened overlay is read with what its base has, by a process that is gone afterwards', { skip: noQemuImg }, async () => {
  const { store, base, root, close } = await world()
  try {
    const content = new Uint8Array(mib(64))
    content.fill(9, mib(3), mib(3) + 4096)
    await writeFile(base.path, content)
    await store.clone(id, base, mib(80))
    assert.ok(store.open)
    {
      await using disk = await store.open(id)
      await disk.write(mib(70), new Uint8Array(512).fill(5))
      await disk.flush()
      const found = new Uint8Array(4096)
      await disk.read(mib(3), found)
      assert.ok(found.every((byte) => byte === 9))
      assert.equal(disk.sizeBytes, mib(80))
      assert.match(spawnSync('ps', ['-eo', 'args']).stdout.toString(), new RegExp(`qemu-nbd.*${root}`))
    }
    assert.doesNotMatch(spawnSync('ps', ['-eo', 'args']).stdout.toString(), new RegExp(`qemu-nbd.*${root}`))
    assert.ok((await readFile(base.path)).equals(content), 'the base is as it was')
    const damaged = join(root, 'damaged.qcow2')
    await writeFile(damaged, 'no image')
    await assert.rejects(openImage(nodeCommandRunner(), damaged, 'qcow2'), { code: 'failed', message: /qcow2/ })
  } finally {
    await close()
  }
})

/** The server with volumes behind it, as other people's clients see it: QEMU's tools, libnbd's, nbdkit as a proxy. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { Fault, MIB } from '@typevisor/base'
import { connectNbd, listenNbd, type NbdServer } from '@typevisor/nbd'
import { lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { memoryLog } from '@typevisor/sim'
import { openVolumeFolder, type VolumeFolder } from './node-volume-folder.ts'
import { runProgram } from './testing/run-program.ts'

let dir: string
let folder: VolumeFolder
let server: NbdServer
const uri = (name: string, socket = 'nbd.sock'): string => `nbd+unix:///${name}?socket=${join(dir, socket)}`

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'tv-clients-'))
  folder = await openVolumeFolder({ dir, create: true, lock: lockFile, clock: realClock(), rng: realRng(), log: memoryLog() })
  await folder.served.call('create', { name: 'disk', sizeBytes: 64 * MIB })
  server = await listenNbd({ listen: { socketPath: join(dir, 'nbd.sock') }, source: folder.served.exports(), log: memoryLog() })
})
after(async () => {
  await server.close()
  await folder.close()
  await rm(dir, { recursive: true, force: true })
})

/** What it printed. The server is in this process, so nothing may block it. */
const run = (program: string, ...words: string[]): Promise<string> => runProgram(program, words)

test('nbdinfo sees the exports, their sizes and what can be asked of them', async () => {
  const said = await run('nbdinfo', '--json', uri('disk'))
  const [found] = (JSON.parse(said) as { exports: Record<string, unknown>[] }).exports
  assert.equal(found?.['export-size'], 64 * MIB)
  for (const can of ['can_flush', 'can_fua', 'can_trim', 'can_zero', 'can_multi_conn', 'can_df', 'can_cache', 'can_fast_zero'])
    assert.equal(found?.[can], true, can)
  assert.equal(found?.['is_read_only'], false)
  await assert.rejects(run('nbdinfo', uri('nothing')), /No such file/)
})

test('nbdcopy and qemu-img bring in an image and find it again, holes and all', async () => {
  const path = join(dir, 'raw')
  const content = Buffer.alloc(64 * MIB)
  randomBytes(5 * MIB).copy(content, 3 * MIB + 1234)
  await writeFile(path, content)
  await run('nbdcopy', path, uri('disk'))
  assert.match(await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', path, uri('disk')), /identical/)
  const map = JSON.parse(await run('qemu-img', 'map', '--output', 'json', '-f', 'raw', uri('disk'))) as {
    start: number
    data: boolean
  }[]
  assert.deepEqual(
    map.map(({ data }) => data),
    [false, true, false],
  )
  await run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri('disk'), join(dir, 'out.qcow2'))
  assert.match(await run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', path, join(dir, 'out.qcow2')), /identical/)
})

test('a snapshot is read-only and stays as it was, a clone goes its own way', async () => {
  await run('qemu-io', '-f', 'raw', '-c', 'write -P 17 1M 1M', '-c', 'flush', uri('disk'))
  await folder.served.call('snapshot', { volume: 'disk', name: 's' })
  await folder.served.call('clone', { snapshot: 'disk@s', name: 'copy' })
  await run('qemu-io', '-f', 'raw', '-c', 'write -P 18 1M 512k', '-c', 'discard 1600k 64k', uri('disk'))
  await run('qemu-io', '-r', '-f', 'raw', '-c', 'read -P 17 1M 1M', uri('disk@s'))
  await run('qemu-io', '-f', 'raw', '-c', 'read -P 17 1M 1M', '-c', 'write -P 19 1M 4k', uri('copy'))
  await run(
    'qemu-io',
    '-f',
    'raw',
    '-c',
    'read -P 18 1M 512k',
    '-c',
    'read -P 0 1600k 64k',
    '-c',
    'read -P 17 1700k 64k',
    uri('disk'),
  )
  assert.match(await run('nbdinfo', uri('disk@s')), /is_read_only: true/)
  await assert.rejects(run('qemu-io', '-f', 'raw', '-c', 'write 0 4k', uri('disk@s')), /read.?only|Permission/i)
})

test('writes of any size and place, from libnbd in Python, come back', async () => {
  const words = [
    'h.connect_uri(U)',
    'import random; r = random.Random(7); size = 1 << 20; m = bytearray(h.pread(size, 0))',
    'for i in range(300):\n  n = r.randrange(1, 9000); o = r.randrange(0, size - n); b = r.randbytes(n); m[o:o+n] = b; h.pwrite(b, o)',
    'h.flush()',
    'assert h.pread(size, 0) == bytes(m)',
  ]
  const program = ['import nbd', `U = ${JSON.stringify(uri('copy'))}`, 'h = nbd.NBD()', ...words].join('\n')
  await run('/usr/bin/python3', '-c', program)
})

/** With nbdkit between its `kit.sock` and an export of ours. */
async function behindNbdkit(filters: readonly string[], name: string, words: readonly string[], work: () => Promise<void>) {
  const socket = join(dir, 'kit.sock')
  const proxy = spawn(
    'nbdkit',
    ['-f', '-U', socket, ...filters.map((filter) => `--filter=${filter}`), 'nbd', `uri=${uri(name)}`, ...words],
    { stdio: 'ignore' },
  )
  const gone = new Promise((resolve) => proxy.once('close', resolve))
  try {
    for (let tries = 0; !existsSync(socket) && tries < 200; tries += 1) await new Promise((resolve) => setTimeout(resolve, 50))
    await work()
  } finally {
    proxy.kill('SIGKILL')
    await gone
    await rm(socket, { force: true })
  }
}

test('behind nbdkit as a proxy that checks each write and delays, all is as it should be', () =>
  behindNbdkit(['checkwrite', 'delay'], 'disk@s', ['rdelay=1ms'], async () => {
    await run('nbdcopy', uri('disk@s'), uri('', 'kit.sock'))
  }))

test('errors that nbdkit puts between come through as what they are, and nothing is done or read wrong because of them', async () => {
  await folder.served.call('create', { name: 'errors', sizeBytes: 8 * MIB })
  const words = ['error-rate=0', 'error-pwrite=ENOSPC', 'error-pwrite-rate=30%', 'error-pread=EIO', 'error-pread-rate=30%']
  const model = Buffer.alloc(8 * MIB)
  const errors = new Map<string, number>()
  await behindNbdkit(['error'], 'errors', words, async () => {
    for (const form of [{}, { structuredReplies: false }]) {
      await using client = await connectNbd({ address: { socketPath: join(dir, 'kit.sock') }, exportName: '', ...form })
      /** Whether it was done. */
      const tried = (work: Promise<void>, code: string): Promise<boolean> =>
        work.then(
          () => true,
          (error: unknown) => {
            assert.ok(error instanceof Fault && error.code === code, String(error))
            errors.set(code, (errors.get(code) ?? 0) + 1)
            return false
          },
        )
      // Many at once, each at a place of its own.
      await Promise.all(
        Array.from({ length: 128 }, async (_, index) => {
          const content = randomBytes(20_000)
          if (await tried(client.write(index * 65_536, content), 'exhausted')) content.copy(model, index * 65_536)
        }),
      )
      await Promise.all(
        Array.from({ length: 128 }, async (_, index) => {
          const got = new Uint8Array(65_536)
          if (await tried(client.read(index * 65_536, got), 'failed'))
            assert.ok(model.subarray(index * 65_536, index * 65_536 + 65_536).equals(got), `place ${index}`)
        }),
      )
    }
  })
  // Of 256 that fail with 30 % each.
  for (const code of ['exhausted', 'failed']) assert.ok((errors.get(code) ?? 0) > 20, `${code}: ${errors.get(code)}`)
  await using client = await connectNbd({ address: { socketPath: join(dir, 'nbd.sock') }, exportName: 'errors' })
  const whole = new Uint8Array(8 * MIB)
  await client.read(0, whole)
  assert.ok(model.equals(whole))
})

test('an encrypted and compressed volume takes an image in and gives it back, holes and all', async () => {
  const secret = randomBytes(32).toString('base64')
  await folder.served.call('create', { name: 'safe', sizeBytes: 64 * MIB, compression: 'zstd', secret })
  const path = join(dir, 'packed')
  const content = Buffer.alloc(64 * MIB)
  content.fill('a line that is packed well\n', 2 * MIB + 777, 20 * MIB)
  randomBytes(3 * MIB).copy(content, 30 * MIB)
  await writeFile(path, content)
  await run('nbdcopy', path, uri('safe'))
  await run('qemu-io', '-f', 'raw', '-c', 'write -P 17 3000k 5k', '-c', 'discard 4M 4100k', '-c', 'flush', uri('safe'))
  content.fill(17, 3000 * 1024, 3005 * 1024)
  content.fill(0, 4 * MIB, 4 * MIB + 4100 * 1024)
  await writeFile(path, content)
  assert.match(await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', path, uri('safe')), /identical/)
  await run('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', uri('safe'), join(dir, 'unpacked'))
  assert.ok((await readFile(join(dir, 'unpacked'))).equals(content))
  const found = (await folder.served.call('list', {})).find(({ name }) => name === 'safe')
  assert.ok(found && found.storedBytes < 5 * MIB, `${found?.storedBytes} bytes are stored`)
  assert.deepEqual((await folder.served.call('check', {})).damage, [])
  assert.ok(!(await readFile(join(dir, 'store'))).includes('a line that is packed'))
})

test('what is served stays served while things are asked of it by the command line of another process', () => {
  // The lock keeps others from opening the folder; `askServer` is how they get in (apps/cli's test does).
  assert.equal(spawnSync('flock', ['-n', join(dir, 'lock'), 'true']).status, 1)
})

/** What clients of Debian 12 do not speak yet, with those of Debian 13 (libnbd 1.22, QEMU 10.0): extended headers, and requests beyond 4 GiB. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { MIB } from '@typevisor/base'
import { listenNbd, type NbdServer } from '@typevisor/nbd'
import { fileCalls, lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { memoryLog } from '@typevisor/sim'
import { openVolumeFolder, type VolumeFolder } from './node-volume-folder.ts'
import { newerDebian } from './testing/newer-debian.ts'
import { runProgram } from './testing/run-program.ts'

const TIB = 2 ** 40
let dir: string
let folder: VolumeFolder
let server: NbdServer
let wordsOf: Awaited<ReturnType<typeof newerDebian>>
const uri = (name: string): string => `nbd+unix:///${name}?socket=${join(dir, 'nbd.sock')}`

before(async () => {
  wordsOf = await newerDebian('trixie', ['libnbd-bin', 'qemu-utils'])
  dir = await mkdtemp(join(tmpdir(), 'typevisor-newer-'))
  const parts = { lock: lockFile, calls: fileCalls(), clock: realClock(), rng: realRng(), log: memoryLog() }
  folder = await openVolumeFolder({ dir, create: true, ...parts })
  await folder.served.call('create', { name: 'disk', sizeBytes: 5 * TIB })
  server = await listenNbd({ listen: { socketPath: join(dir, 'nbd.sock') }, source: folder.served.exports(), log: memoryLog() })
})
after(async () => {
  await server?.close()
  await folder?.close()
  if (dir) await rm(dir, { recursive: true, force: true })
})

function run(program: string, ...words: string[]): Promise<string> {
  const [loader, ...rest] = wordsOf(program)
  return runProgram(loader, [...rest, ...words])
}

test('libnbd agrees on extended headers, and has the map of a disk of 5 TiB in one answer', async () => {
  const info = await run('nbdinfo', uri('disk'))
  assert.match(info, /using extended packets/)
  const map = JSON.parse(await run('nbdinfo', '--map', '--json', uri('disk'))) as { length: number; type: number }[]
  assert.deepEqual(
    map.map(({ length, type }) => [length, type]),
    [[5 * TIB, 3]],
  )
})

test('what nbdcopy brings in over extended headers comes out again', async () => {
  const [from, to] = [join(dir, 'in'), join(dir, 'out')]
  const content = Buffer.alloc(16 * MIB)
  randomBytes(5 * MIB).copy(content, 3 * MIB + 512)
  await writeFile(from, content)
  await folder.served.call('create', { name: 'small', sizeBytes: 16 * MIB })
  await run('nbdcopy', from, uri('small'))
  await run('nbdcopy', uri('small'), to)
  assert.match(await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', from, to), /identical/)
  assert.match(await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', from, uri('small')), /identical/)
})

test('QEMU writes, zeroes 8 GiB in one request, discards and finds what it wrote', async () => {
  const said = await run(
    'qemu-io',
    '-f',
    'raw',
    ...[
      'write -P 7 4T 64k',
      'read -P 7 4T 64k',
      'write -z -n -u 1T 8G',
      'discard 4T 4k',
      'read -P 0 4T 4k',
      'read -P 7 4398046515200 60k',
    ].flatMap((command) => ['-c', command]),
    uri('disk'),
  )
  assert.doesNotMatch(said, /fail|error/i)
  assert.match(said, /8 GiB, 1 ops/)
  const map = JSON.parse(await run('qemu-img', 'map', '--output', 'json', '-f', 'raw', uri('disk'))) as {
    start: number
    length: number
    data: boolean
  }[]
  assert.deepEqual(
    map.filter(({ data }) => data).map(({ start, length }) => [start, length]),
    [[4 * TIB + 4096, 60 * 1024]],
  )
})

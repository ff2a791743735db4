/** Dirty bitmaps and allocation depths of volumes, as other people's clients see them. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { MIB } from '@typevisor/base'
import { connectNbd, listenNbd, type NbdServer } from '@typevisor/nbd'
import { fileCalls, lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { memoryLog } from '@typevisor/sim'
import { openVolumeFolder, type VolumeFolder } from './node-volume-folder.ts'
import { runProgram } from './testing/run-program.ts'

let dir: string
let folder: VolumeFolder
let server: NbdServer
const socketPath = (): string => join(dir, 'nbd.sock')
const uri = (name: string): string => `nbd+unix:///${name}?socket=${socketPath()}`

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'tv-contexts-'))
  folder = await openVolumeFolder({
    dir,
    create: true,
    lock: lockFile,
    calls: fileCalls(),
    clock: realClock(),
    rng: realRng(),
    log: memoryLog(),
  })
  server = await listenNbd({ listen: { socketPath: socketPath() }, source: folder.served.exports(), log: memoryLog() })
  const { call } = folder.served
  const write = async (name: string, ...words: string[]) => {
    await run('qemu-io', '-f', 'raw', ...words.flatMap((word) => ['-c', word]), uri(name))
  }
  // What the tests below find again: 1 MiB at 0, 8 and 16 MiB in `one`; changes at 8, a trim at 16, new at 24 in `two`; 32 in the clone.
  await call('create', { name: 'disk', sizeBytes: 64 * MIB })
  await write('disk', 'write 0 1M', 'write 8M 1M', 'write 16M 1M')
  await call('snapshot', { volume: 'disk', name: 'one' })
  await write('disk', 'write 8M 512k', 'discard 16M 1M', 'write 24M 1M')
  await call('snapshot', { volume: 'disk', name: 'two' })
  await call('clone', { snapshot: 'disk@two', name: 'copy' })
  await write('copy', 'write 32M 64k', 'write -z 40M 64k')
})
after(async () => {
  await server.close()
  await folder.close()
  await rm(dir, { recursive: true, force: true })
})

const run = (program: string, ...words: string[]): Promise<string> => runProgram(program, words)

/** Offset and length of what has another type than 0, by the type. */
const mapOf = async (name: string, context: string): Promise<[number, number, number][]> =>
  (
    JSON.parse(await run('nbdinfo', '--json', `--map=${context}`, uri(name))) as {
      offset: number
      length: number
      type: number
    }[]
  )
    .filter(({ type }) => type !== 0)
    .map(({ offset, length, type }) => [offset, length, type])

test('nbdinfo lists a bitmap for each snapshot that a volume goes on from, and maps them', async () => {
  const said = await run('nbdinfo', '--json', uri('copy'))
  const contexts = (JSON.parse(said) as { exports: { contexts: string[] }[] }).exports[0]?.contexts
  assert.deepEqual(contexts, [
    'base:allocation',
    'qemu:dirty-bitmap:disk@two',
    'qemu:dirty-bitmap:disk@one',
    'qemu:allocation-depth',
  ])
  assert.deepEqual(await mapOf('copy', 'qemu:dirty-bitmap:disk@two'), [
    [32 * MIB, 65_536, 1],
    [40 * MIB, 65_536, 1],
  ])
  assert.deepEqual(await mapOf('disk@two', 'qemu:dirty-bitmap:disk@one'), [
    [8 * MIB, 524_288, 1],
    [16 * MIB, MIB, 1],
    [24 * MIB, MIB, 1],
  ])
  await assert.rejects(mapOf('disk@one', 'qemu:dirty-bitmap:disk@two'), /does not support|no|not/i)
})

test('an allocation depth says in which snapshot a block was written', async () => {
  assert.deepEqual(await mapOf('copy', 'qemu:allocation-depth'), [
    [0, MIB, 3],
    [8 * MIB, 524_288, 2],
    [8 * MIB + 524_288, 524_288, 3],
    [24 * MIB, MIB, 2],
    [32 * MIB, 65_536, 1],
    [40 * MIB, 65_536, 1],
  ])
})

test('qemu-img takes a dirty bitmap for the map of a disk: what is dirty is what it does not call data', async () => {
  const options = `driver=nbd,server.type=unix,server.path=${socketPath()},export=copy,x-dirty-bitmap=qemu:dirty-bitmap:disk@one`
  const map = JSON.parse(await run('qemu-img', 'map', '--output=json', '--image-opts', options)) as {
    start: number
    length: number
    data: boolean
  }[]
  assert.deepEqual(
    map.filter(({ data }) => !data).map(({ start, length }) => [start, length]),
    [
      [8 * MIB, 524_288],
      [16 * MIB, MIB],
      [24 * MIB, MIB],
      [32 * MIB, 65_536],
      [40 * MIB, 65_536],
    ],
  )
})

test('libnbd in Python asks for several contexts at once, from any offset, one extent at a time too', async () => {
  const program = `
import json, nbd
h = nbd.NBD()
names = ["base:allocation", "qemu:dirty-bitmap:disk@one", "qemu:allocation-depth"]
for name in names: h.add_meta_context(name)
h.connect_uri(${JSON.stringify(uri('copy'))})
found = {}
def keep(name, offset, extents, error): found[name] = extents
h.block_status(2 << 20, (8 << 20) + 1000, keep)
first = dict(found)
h.block_status(2 << 20, (8 << 20) + 1000, keep, nbd.CMD_FLAG_REQ_ONE)
print(json.dumps([first, found]))
`
  const [all, one] = JSON.parse(await run('/usr/bin/python3', '-c', program)) as Record<string, number[]>[]
  assert.deepEqual(all?.['qemu:dirty-bitmap:disk@one'], [524_288 - 1000, 1, 2 * MIB - (524_288 - 1000), 0])
  assert.deepEqual(all?.['base:allocation']?.slice(0, 2), [MIB - 1000, 0])
  assert.deepEqual(all?.['qemu:allocation-depth']?.slice(0, 4), [524_288 - 1000, 2, 524_288, 3])
  assert.deepEqual(one?.['qemu:dirty-bitmap:disk@one'], [524_288 - 1000, 1])
})

test('a bitmap whose snapshot is deleted is refused, and the connection goes on', async () => {
  await folder.served.call('create', { name: 'short', sizeBytes: MIB })
  await folder.served.call('snapshot', { volume: 'short', name: 's' })
  const context = 'qemu:dirty-bitmap:short@s'
  await using client = await connectNbd({ address: { socketPath: socketPath() }, exportName: 'short', contexts: [context] })
  assert.deepEqual(await client.status(context, 0, MIB), [{ lengthBytes: MIB, status: 0 }])
  await folder.served.call('remove', { name: 'short@s' })
  await assert.rejects(client.status(context, 0, MIB), /not there any more/)
  await client.read(0, new Uint8Array(4096))
})

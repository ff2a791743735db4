/** Two hosts with one volume, over the sockets of a real volume server. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { Fault, mib, type Log } from '@typevisor/base'
import { parseVolumeId } from '@typevisor/model'
import { connectNbd, type NbdClient } from '@typevisor/nbd'
import { lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { exportNameFor, nbdVolumeLeases } from './nbd-volume-leases.ts'
import { openVolumeFolder } from './node-volume-folder.ts'
import { askServer } from './node-volume-server.ts'

const VOLUME = parseVolumeId('01890000-0000-7000-8000-000000000001.root')
const A = '11111111-2222-4333-8444-555555555555'
const B = '21111111-2222-4333-8444-555555555555'
const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, with: () => quiet }
const BLOCK = 4096
const BLOCK_COUNT = mib(4) / BLOCK

async function world(t: TestContext) {
  const root = await mkdtemp(join(tmpdir(), 'typevisor-lease-'))
  const dir = join(root, 'disks')
  const folder = await openVolumeFolder({ dir, create: true, lock: lockFile, clock: realClock(), rng: realRng(), log: quiet })
  await folder.answer({ version: 'test', stop() {} })
  const [one, other] = [await askServer(dir), await askServer(dir)]
  assert.ok(one && other)
  t.after(async () => {
    one.close()
    other.close()
    await folder.close()
    await rm(root, { recursive: true, force: true })
  })
  await one.call('create', { name: VOLUME, sizeBytes: mib(4) })
  return {
    call: one.call,
    a: nbdVolumeLeases(one.call, A),
    b: nbdVolumeLeases(other.call, B),
    async open(exportName: string, host: string): Promise<NbdClient> {
      const socketPath = join(root, `${host}.sock`)
      await one.call('attach', { volume: exportName, socketPath })
      return await connectNbd({ address: { socketPath }, exportName })
    },
  }
}

const isFault = (code: string) => (error: unknown) => error instanceof Fault && error.code === code

/** A block that says how often it was written, and by whom. */
function block(writer: number, count: number): Uint8Array {
  const content = new Uint8Array(BLOCK)
  new DataView(content.buffer).setUint32(0, writer)
  new DataView(content.buffer).setUint32(4, count)
  return content.fill(writer + count, 8)
}

test('a lease is taken once, and given back by its holder alone', async (t) => {
  const { a, b, call } = await world(t)
  assert.deepEqual([await a.held(VOLUME), await exportNameFor(call, A, VOLUME)], [null, VOLUME])
  const epoch = await a.take(VOLUME)
  assert.equal(await a.take(VOLUME), epoch)
  assert.deepEqual([await a.held(VOLUME), await b.held(VOLUME)], [epoch, null])
  assert.deepEqual([await exportNameFor(call, A, VOLUME), await exportNameFor(call, B, VOLUME)], [`${VOLUME}:${epoch}`, VOLUME])
  await assert.rejects(b.take(VOLUME), /leased by 11111111-.* in epoch 1; want it released/)
  await assert.rejects(b.offer(VOLUME), isFault('conflict'))
  await assert.rejects(b.handOver(VOLUME, B, epoch + 1), isFault('conflict'))
  await b.release(VOLUME)
  assert.equal(await a.held(VOLUME), epoch)
  await a.release(VOLUME)
  await a.release(VOLUME)
  assert.equal(await a.held(VOLUME), null)
  assert.ok((await b.take(VOLUME)) > epoch)
  const none = parseVolumeId(VOLUME.replace('root', 'data'))
  await assert.rejects(a.take(none), /lease .*\.data: there is no such volume/)
  assert.equal(await a.held(none), null)
  await a.release(none)
})

test('a hand-over under load: the old writer is refused from then on, the new one writes, and no acknowledged write is lost', async (t) => {
  const { a, b, call, open } = await world(t)
  const first = await a.take(VOLUME)
  const source = await open(`${VOLUME}:${first}`, 'a')
  /** By block: the newest count that was acknowledged. */
  const acknowledged = new Map<number, number>()
  const enough = Promise.withResolvers<void>()
  const refusals: unknown[] = []
  let writtenCount = 0
  const writeOn = async (lane: number): Promise<void> => {
    for (let count = 1; ; count += 1) {
      const at = lane + 8 * (count % (BLOCK_COUNT / 16))
      try {
        await source.write(at * BLOCK, block(1, count))
      } catch (error) {
        refusals.push(error)
        return
      }
      acknowledged.set(at, count)
      if ((writtenCount += 1) === 500) enough.resolve()
    }
  }
  const writing = Promise.all(Array.from({ length: 8 }, (_, lane) => writeOn(lane)))
  await enough.promise
  const next = await a.offer(VOLUME)
  const target = await open(`${VOLUME}:${next}`, 'b')
  assert.equal(target.readOnly, false)
  await assert.rejects(target.write(0, block(2, 0)), isFault('forbidden'))
  const before = writtenCount
  assert.deepEqual([await a.held(VOLUME), await b.held(VOLUME)], [first, null])
  await a.handOver(VOLUME, B, next)
  await writing
  assert.ok(writtenCount > before, 'it wrote until the hand-over')
  assert.equal(refusals.length, 8)
  for (const refusal of refusals) assert.ok(isFault('forbidden')(refusal), String(refusal))
  assert.deepEqual([await a.held(VOLUME), await b.held(VOLUME)], [null, next])
  for (const [at, count] of acknowledged) {
    const content = new Uint8Array(BLOCK)
    await target.read(at * BLOCK, content)
    const found = new DataView(content.buffer).getUint32(4)
    assert.equal(found, count, `block ${at}`)
    assert.deepEqual(content, block(1, count))
  }
  await target.write(0, block(2, 1))
  await assert.rejects(source.write(0, block(1, 9)), isFault('forbidden'))
  const content = new Uint8Array(BLOCK)
  await source.read(0, content)
  assert.deepEqual(content, block(2, 1), 'reads go on')

  // Done twice it is done once; what is over cannot be taken back.
  await a.handOver(VOLUME, B, next)
  await assert.rejects(a.take(VOLUME), isFault('conflict'))
  await a.release(VOLUME)
  assert.equal(await b.held(VOLUME), next)
  await assert.rejects(b.handOver(VOLUME, A, next + 7), isFault('conflict'))
  assert.equal(await b.held(VOLUME), next)
  await target.write(BLOCK, block(2, 2))
  await Promise.all([source.close(), target.close()])
  assert.equal((await call('get', { name: VOLUME }))?.lease.epoch, next)
})

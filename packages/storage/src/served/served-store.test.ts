/** A store and its NBD exports in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { millis } from '@typevisor/base'
import { linkInMemory, openExport } from '@typevisor/nbd/testing'
import { memoryLog, seededRng, virtualClock } from '@typevisor/sim'
import { nodeChecksum } from '../node-store-file.ts'
import { Store } from '../store/store.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { ServedStore } from '../volume-commands.ts'

async function served(): Promise<{ served: ServedStore; clock: ReturnType<typeof virtualClock>; file: SimStoreFile }> {
  const rng = seededRng(1)
  const [clock, log, file] = [virtualClock(), memoryLog(), new SimStoreFile({ rng })]
  const store = await clock.run(() => Store.create({ file, checksum: nodeChecksum, clock, rng, log }))
  return { served: new ServedStore(store), clock, file }
}

test('a limit holds for all connections of a volume together, can be changed under them, and is kept by the store', async () => {
  const { served: one, clock, file } = await served()
  const rng = seededRng(2)
  await clock.run(async () => {
    await one.call('create', { name: 'web', sizeBytes: 1024 * 1024 })
    await one.call('limit', { name: 'web', iopsMax: 10 })
    const links = [linkInMemory(one.exports(), rng), linkInMemory(one.exports(), rng)]
    const clients = await Promise.all(links.map((link) => openExport(link.client, { exportName: 'web' })))
    const work = (count: number) =>
      Promise.all(
        clients.map(async (client) => {
          for (let index = 0; index < count; index += 1) await client.write(0, new Uint8Array(4096))
        }),
      )
    const begin = clock.monotonic()
    await work(20)
    const tookMs = clock.monotonic() - begin
    assert.ok(tookMs >= 3800 && tookMs <= 4000, `40 operations at 10 a second took ${tookMs} ms`)
    await one.call('limit', { name: 'web', iopsMax: 0 })
    const free = clock.monotonic()
    await work(20)
    assert.equal(clock.monotonic(), free)
    await one.call('limit', { name: 'web', bytesPerSecondMax: 1_000_000, burstSeconds: 2 })
    for (const client of clients) await client.close()
    await one.store.close()
    const again = await Store.open({ file, checksum: nodeChecksum, clock, rng, log: memoryLog() })
    assert.deepEqual(again.get('web')?.limits, { iopsMax: 0, bytesPerSecondMax: 1_000_000, burstSeconds: 2 })
    await again.close()
  })
})

test('a connection that goes ends at once, and its writes that wait for the limit are never carried out', async () => {
  const { served: one, clock } = await served()
  const rng = seededRng(3)
  await clock.run(async () => {
    await one.call('create', { name: 'web', sizeBytes: 1024 * 1024 })
    await one.call('limit', { name: 'web', iopsMax: 1 })
    const lost = linkInMemory(one.exports(), rng)
    const first = await openExport(lost.client, { exportName: 'web' })
    await first.write(0, new Uint8Array(4096).fill(1))
    for (let index = 0; index < 10; index += 1) first.write(0, new Uint8Array(4096).fill(2)).catch(() => {})
    await clock.sleep(millis(10))
    const at = clock.monotonic()
    lost.connection.end()
    await lost.connection.over
    assert.equal(clock.monotonic(), at)
    await clock.sleep(millis(60_000))
    const link = linkInMemory(one.exports(), rng)
    const second = await openExport(link.client, { exportName: 'web' })
    const content = new Uint8Array(4096)
    await second.read(0, content)
    assert.equal(content[0], 1)
    await second.close()
    await one.store.close()
  })
})

/** A store and its NBD exports in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, millis } from '@typevisor/base'
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

test('a volume is written by the holder of its lease alone, also through a hand-over that the next one waits for', async () => {
  const { served: one, clock } = await served()
  const rng = seededRng(4)
  const [a, b] = ['a', 'b'].map((digit) => `${digit.repeat(8)}-0000-4000-8000-000000000000`) as [string, string]
  const open = (exportName: string) => openExport(linkInMemory(one.exports(), rng).client, { exportName })
  const isFault =
    (...codes: readonly string[]) =>
    (error: unknown) =>
      error instanceof Fault && codes.includes(error.code)
  const block = (fill: number) => new Uint8Array(4096).fill(fill)
  await clock.run(async () => {
    await one.call('create', { name: 'web', sizeBytes: 1024 * 1024 })
    const anybody = await open('web')
    await anybody.write(0, block(1))
    const first = await one.call('acquireLease', { name: 'web', holder: a })
    assert.deepEqual(first, { name: 'web', epoch: 1, holder: a, exportName: 'web:1' })
    // Who had opened it before is shut out of all that changes it.
    await assert.rejects(anybody.write(0, block(9)), isFault('forbidden'))
    await assert.rejects(anybody.write(100, new Uint8Array(7)), isFault('forbidden'))
    await assert.rejects(anybody.trim(0, 4096), isFault('forbidden'))
    await assert.rejects(anybody.zero(0, 4096, { noHole: true }), isFault('forbidden'))
    assert.equal((await open('web')).readOnly, true)
    await assert.rejects(open('web:2'), isFault('conflict', 'forbidden', 'stale_fence'))
    await assert.rejects(one.call('acquireLease', { name: 'web', holder: b }), isFault('conflict'))
    for (const work of [
      one.call('resize', { name: 'web', sizeBytes: 4096 }),
      one.call('remove', { name: 'web' }),
      one.call('rename', { name: 'web', next: 'wob' }),
    ])
      await assert.rejects(work, (error) => error instanceof Fault && /leased by a{8}-/.test(error.message))

    const source = await open('web:1')
    await source.write(0, block(2))
    const { nextEpoch, exportName } = await one.call('offerLease', { name: 'web', epoch: 1 })
    assert.deepEqual([nextEpoch, exportName], [2, 'web:2'])
    const target = await open(exportName)
    assert.equal(target.readOnly, false)
    await assert.rejects(target.write(0, block(9)), isFault('forbidden'))
    const content = new Uint8Array(4096)
    await target.read(0, content)
    assert.equal(content[0], 2)
    await source.write(0, block(3))
    await one.call('handOverLease', { name: 'web', epoch: 1, holder: b, nextEpoch })
    await assert.rejects(source.write(0, block(9)), isFault('forbidden'))
    await assert.rejects(open('web:1'))
    await target.read(0, content)
    assert.equal(content[0], 3)
    await target.write(0, block(4))
    await target.trim(4096, 4096)
    assert.deepEqual(one.store.get('web')?.lease, { epoch: 2, holder: b })

    await one.call('releaseLease', { name: 'web', epoch: 2 })
    await assert.rejects(target.write(0, block(9)), isFault('forbidden'))
    const again = await open('web')
    await again.write(0, block(5))
    await again.read(0, content)
    assert.equal(content[0], 5)
    await assert.rejects(one.call('acquireLease', { name: 'web', holder: 'me' }), /holder: got "me", want a UUID/)
    await one.store.close()
  })
})

test('who opens or leases a volume while it is resized, reverted or deleted waits for that, and a second such command is refused', async () => {
  const { served: one, clock } = await served()
  const rng = seededRng(5)
  const holder = 'aaaaaaaa-0000-4000-8000-000000000000'
  const [sizeBytes, cutBytes] = [2 ** 30, 2 ** 20]
  const open = () => openExport(linkInMemory(one.exports(), rng).client, { exportName: 'web' })
  await clock.run(async () => {
    await one.call('create', { name: 'web', sizeBytes })
    const writer = await open()
    // Behind the cut, in several steps of it.
    for (let at = cutBytes; at < sizeBytes; at += 2 ** 26) await writer.write(at, new Uint8Array(4096).fill(7))
    await writer.close()
    await clock.sleep(millis(10))

    const resizing = one.call('resize', { name: 'web', sizeBytes: cutBytes })
    const opening = open()
    await assert.rejects(
      one.call('remove', { name: 'web' }),
      (error) => error instanceof Fault && error.code === 'conflict' && /resize of it is under way/.test(error.message),
    )
    const client = await opening
    assert.equal(client.sizeBytes, cutBytes)
    await resizing
    await client.close()
    await clock.sleep(millis(10))

    await one.call('resize', { name: 'web', sizeBytes })
    const again = await open()
    await again.write(sizeBytes - 4096, new Uint8Array(4096).fill(7))
    await again.close()
    await clock.sleep(millis(10))
    const order: string[] = []
    const told = (what: string) => () => void order.push(what)
    await Promise.all([
      one.call('resize', { name: 'web', sizeBytes: cutBytes }).then(told('resized')),
      one.call('acquireLease', { name: 'web', holder }).then(told('leased')),
    ])
    assert.deepEqual(order, ['resized', 'leased'])
    await one.call('releaseLease', { name: 'web', epoch: 1 })

    const [, opened] = await Promise.allSettled([one.call('remove', { name: 'web' }), open()])
    assert.equal(opened?.status, 'rejected')
    assert.equal(one.store.get('web'), null)
    await one.store.close()
  })
})

test('an import is not finished into a volume that somebody leases or opens while it waits for its turn', async () => {
  const holder = '11111111-2222-4333-8444-555555555555'
  const SIZE_BYTES = 1024 * 1024
  const { served: one, clock } = await served()
  const { store } = one
  await clock.run(async () => {
    let count = 0
    /** A volume with a snapshot, and what goes on from that one. */
    const made = async () => {
      const name = `web${(count += 1)}`
      await one.call('create', { name, sizeBytes: SIZE_BYTES })
      const base = await one.call('snapshot', { volume: name, name: 'one' })
      const snapshotId = base.id.replace(/^./, (digit) => (digit === '0' ? '1' : '0'))
      const target = { name, snapshot: 'two', snapshotId, sizeBytes: SIZE_BYTES, baseId: base.id, startBytes: 0 }
      await one.call('importBegin', target)
      return { name, finish: () => one.call('importFinish', { ...target, createdAt: 1 }) }
    }
    let raceCount = 0
    for (const use of ['lease', 'connection'] as const)
      for (const first of ['use', 'change'])
        for (let ticks = 0; ticks < 12; ticks += 1) {
          const { name, finish } = await made()
          const entry = store.entry(name)
          const { parent } = entry.record
          const isChanged = (): boolean => entry.record.parent !== parent
          let isOpened = false
          const starts: Record<'use' | 'change', () => Promise<unknown>> = {
            use: () => {
              if (use === 'lease') return one.call('acquireLease', { name, holder })
              isOpened = true
              return one.exports().open(name)
            },
            change: finish,
          }
          const outcomes: Promise<unknown>[] = []
          const start = (which: 'use' | 'change'): void =>
            void outcomes.push(
              starts[which]().then(
                () => `${which} done`,
                (error: unknown) => `${which} ${error instanceof Fault ? error.code : String(error)}`,
              ),
            )
          let [usedAt, changedAt] = [Infinity, Infinity]
          for (let tick = 0; tick < 300; tick += 1) {
            if (tick === 0) start(first === 'use' ? 'use' : 'change')
            if (tick === ticks) start(first === 'use' ? 'change' : 'use')
            if (usedAt === Infinity && (isOpened || entry.record.leaseHolder !== null)) usedAt = tick
            if (changedAt === Infinity && isChanged()) changedAt = tick
            await null
          }
          const results = await Promise.all(outcomes)
          if (usedAt >= changedAt) continue
          raceCount += 1
          const told = `${use} at ${usedAt}, changed at ${changedAt}`
          assert.deepEqual([isChanged(), results.includes('change conflict')], [false, true], told)
        }
    assert.ok(raceCount > 20, `${raceCount}`)
    await one.store.close()
  })
})

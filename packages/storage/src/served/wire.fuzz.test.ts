/** Wrong requests and changed sessions on volumes of a real store: nothing crashes, nothing is reached that was not opened, all stays sound. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { anyRequests, changedSession, feed, linkInMemory, openExport, opening } from '@typevisor/nbd/testing'
import { memoryLog, seededRng, virtualClock } from '@typevisor/sim'
import { nodeChecksum } from '../node-store-file.ts'
import { Store } from '../store/store.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { ServedStore } from '../volume-commands.ts'

const SIZE = 1024 * 1024
const SECRET = 0x5e
const CONTEXTS = ['qemu:allocation-depth', 'qemu:dirty-bitmap:open@monday']

/** A volume with a snapshot, and one that nobody may see or change. */
async function served() {
  const rng = seededRng(1)
  const [clock, log, file] = [virtualClock(), memoryLog(), new SimStoreFile({ rng })]
  const one = await clock.run(async () => {
    const made = new ServedStore(await Store.create({ file, checksum: nodeChecksum, clock, rng, log }))
    for (const name of ['open', 'secret']) {
      await made.call('create', { name, sizeBytes: SIZE })
      const client = await openExport(linkInMemory(made.exports(), rng).client, { exportName: name })
      await client.write(0, new Uint8Array(name === 'secret' ? SIZE : SIZE / 2).fill(name === 'secret' ? SECRET : 1))
      await client.close()
    }
    await made.call('snapshot', { volume: 'open', name: 'monday' })
    return made
  })
  return { one, clock, log, rng }
}

const seen = (said: Buffer): boolean => said.includes(Buffer.alloc(64, SECRET))

for (const form of ['structured', 'extended'] as const) {
  test(`${form} replies: requests of any kind and changed sessions leave the store sound, and its other volume as it was`, async () => {
    const { one, clock, log, rng } = await served()
    const run = (session: Uint8Array, seed: number) => clock.run(() => feed(one.exports(), session, seed))
    await fc.assert(
      fc.asyncProperty(anyRequests(form === 'extended', SIZE), fc.nat(), async (requests, seed) => {
        assert.ok(!seen(await run(Buffer.concat([opening('open', form, CONTEXTS), requests]), seed)))
      }),
      { numRuns: 100 },
    )
    let statusCount = 0
    await fc.assert(
      fc.asyncProperty(changedSession('open', form, CONTEXTS), fc.nat(), async (session, seed) => {
        const said = await run(session, seed)
        assert.ok(!seen(said))
        const type = form === 'extended' ? [0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 6] : [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 5]
        if (said.includes(Buffer.from(type))) statusCount += 1
      }),
      { numRuns: 150 },
    )
    assert.ok(statusCount > 5, `block status was carried out in ${statusCount} of 150`)
    await clock.run(async () => {
      const client = await openExport(linkInMemory(one.exports(), rng).client, { exportName: 'secret' })
      const content = new Uint8Array(SIZE)
      await client.read(0, content)
      assert.ok(content.every((byte) => byte === SECRET))
      await client.close()
      assert.deepEqual((await one.call('check', {})).damage, [])
      await one.store.close()
    })
    assert.deepEqual(
      log.lines.filter(({ level }) => level === 'error'),
      [],
    )
  })
}

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { simDisk, type SimDisk } from './disk.ts'
import { seededRng } from './rng.ts'
import { diskConformance } from './testing.ts'

const raw = (content: string): Uint8Array => new TextEncoder().encode(content)
const text = (content: Uint8Array | null): string => new TextDecoder().decode(content ?? raw('(missing)'))

diskConformance('simDisk', async () => {
  const disk = simDisk({ rng: seededRng(1) })
  return { disk, reopen: async () => disk, [Symbol.asyncDispose]: async () => {} }
})

async function lives(count: number, live: (disk: SimDisk, seed: number) => Promise<void>): Promise<string[]> {
  const found: string[] = []
  for (let seed = 0; seed < count; seed += 1) {
    const disk = simDisk({ rng: seededRng(seed) })
    await live(disk, seed)
    found.push(text(await disk.crash().read('journal')))
  }
  return found
}

test('a crash keeps what was synced, and any part of the rest', async () => {
  const found = await lives(200, async (disk) => {
    const file = await disk.open('journal')
    await file.append(raw('safe'))
    await file.sync()
    await file.append(raw('maybe'))
  })
  for (const content of found) assert.match(content, /^safe/)
  const rests = new Set(found.map((content) => content.slice(4)))
  assert.ok(rests.has('') && rests.has('maybe') && rests.has('may'), [...rests].join())
  assert.ok(
    [...rests].some((rest) => rest.includes('\0')),
    'some were torn',
  )
})

test('a crash during a replace leaves the old or the new, and after it the new', async () => {
  const during = await lives(100, async (disk) => {
    await disk.replace('journal', raw('old'))
    void disk.replace('journal', raw('new'))
  })
  assert.deepEqual([...new Set(during)].sort(), ['new', 'old'])
  const after = await lives(20, async (disk) => {
    await disk.replace('journal', raw('old'))
    await disk.replace('journal', raw('new'))
  })
  assert.deepEqual([...new Set(after)], ['new'])
})

test('who uses a disk after its crash waits for ever', async () => {
  const disk = simDisk({ rng: seededRng(1) })
  const file = await disk.open('journal')
  disk.crash()
  const answer = await Promise.race([file.append(raw('x')), new Promise((resolve) => setTimeout(resolve, 20, 'no answer'))])
  assert.equal(answer, 'no answer')
})

test('a full disk says so, and goes on when there is room again', async () => {
  const disk = simDisk({ rng: seededRng(1), capacityBytes: 4 })
  const file = await disk.open('journal')
  await assert.rejects(file.append(raw('too much')), (error) => error instanceof Fault && error.code === 'exhausted')
  assert.equal(file.sizeBytes, 4)
  await file.truncate(0)
  disk.setCapacity(100)
  await file.append(raw('enough'))
  assert.equal(text(await disk.read('journal')), 'enough')
})

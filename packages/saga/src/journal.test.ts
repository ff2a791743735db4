import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, type AppendFile, type Disk } from '@typevisor/base'
import { memoryLog, seededRng, simDisk, virtualClock, type SimDisk } from '@typevisor/sim'
import * as fc from 'fast-check'
import { crc32c } from './crc32c.hot.ts'
import { encodeFrame, scanFrames } from './frames.ts'
import { jsonCodec, openJournal, type Journal, type JournalOptions } from './journal.ts'
import { stateFile } from './state-file.ts'

const raw = (content: string): Uint8Array => new TextEncoder().encode(content)

/** Bit by bit, as the definition says. */
function crc32cPlain(content: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of content) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return ~crc >>> 0
}

test('the checksum is CRC-32C', () => {
  assert.equal(crc32c(raw('123456789')), 0xe3069283)
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa, 'RFC 3720 appendix B.4, 32 bytes of zeroes')
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(100), (content, cut) => {
      assert.equal(crc32c(content), crc32cPlain(content))
      const middle = Math.min(cut, content.length)
      assert.equal(crc32c(content, middle, content.length, crc32c(content, 0, middle)), crc32c(content))
    }),
  )
})

const groups = fc.array(fc.array(fc.uint8Array({ maxLength: 40 }), { minLength: 1, maxLength: 4 }), { maxLength: 6 })

const fileOf = (frames: readonly Uint8Array[][], first = 1): Uint8Array =>
  new Uint8Array(Buffer.concat(frames.map((records, index) => encodeFrame(first + index, records))))

test('scanning gives back what was framed', () => {
  fc.assert(
    fc.property(groups, fc.integer({ min: 1, max: 2 ** 32 - 10 }), (frames, first) => {
      const scan = scanFrames(fileOf(frames, first))
      assert.deepEqual(scan.records, frames.flat())
      assert.equal(scan.damageFollowedBy, null)
      assert.equal(scan.lastSequence, frames.length === 0 ? 0 : first + frames.length - 1)
    }),
  )
})

test('a cut file gives back whole frames only', () => {
  fc.assert(
    fc.property(groups, fc.nat(1000), (frames, cut) => {
      const file = fileOf(frames)
      const kept = file.subarray(0, Math.min(cut, file.length))
      const scan = scanFrames(kept)
      const ends = frames.map((_, index) => fileOf(frames.slice(0, index + 1)).length)
      const whole = ends.filter((end) => end <= kept.length).length
      assert.deepEqual(scan.records, frames.slice(0, whole).flat())
      assert.equal(scan.damageFollowedBy, null)
    }),
  )
})

test('a damaged byte before the last frame is found, one in the last frame is a torn tail', () => {
  fc.assert(
    fc.property(groups, fc.nat(), fc.integer({ min: 1, max: 255 }), (frames, at, change) => {
      fc.pre(frames.length > 0)
      const file = fileOf(frames)
      const where = at % file.length
      file[where]! ^= change
      const lastStart = fileOf(frames.slice(0, -1)).length
      const scan = scanFrames(file)
      assert.ok(scan.goodBytes <= where)
      assert.equal(scan.damageFollowedBy !== null, where < lastStart)
    }),
  )
})

test('arbitrary bytes are scanned without harm', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.boolean(), (noise, behindGoodOnes) => {
      const scan = scanFrames(behindGoodOnes ? new Uint8Array(Buffer.concat([fileOf([[raw('a')]]), noise])) : noise)
      assert.ok(scan.records.length >= (behindGoodOnes ? 1 : 0))
    }),
    { numRuns: 500 },
  )
})

interface Opened {
  readonly journal: Journal<number>
  readonly replayed: number[]
}

async function open(disk: Disk, options: Partial<JournalOptions<number>> = {}): Promise<Opened> {
  const replayed: number[] = []
  const journal = await openJournal<number>({
    disk,
    name: 'journal',
    codec: jsonCodec(),
    clock: virtualClock(),
    log: memoryLog(),
    replay: (record) => replayed.push(record),
    ...options,
  })
  return { journal, replayed }
}

test('appenders that come together share one sync', async () => {
  let syncCount = 0
  const disk = simDisk({ rng: seededRng(1), onOperation: (operation) => void (operation === 'sync' && (syncCount += 1)) })
  const { journal } = await open(disk)
  await Promise.all(Array.from({ length: 100 }, (_, index) => journal.append([index])))
  assert.equal(syncCount, 1)
  const { replayed } = await open(disk)
  assert.deepEqual(
    replayed,
    Array.from({ length: 100 }, (_, index) => index),
  )
})

test('compaction leaves the snapshot and what comes after it', async () => {
  const disk = simDisk({ rng: seededRng(1) })
  let sum = 0
  const snapshot = () => [sum]
  const { journal } = await open(disk, { snapshot, compactBytesMin: 500 })
  for (let number = 1; number <= 200; number += 1) {
    sum += number
    await journal.append([number])
  }
  assert.ok(journal.sizeBytes < 600, `${journal.sizeBytes} bytes`)
  await journal.compact()
  const { replayed } = await open(disk)
  assert.deepEqual(replayed, [20_100])
})

test('damage to what was committed is reported, and nothing is changed', async () => {
  const disk = simDisk({ rng: seededRng(1) })
  const { journal } = await open(disk)
  for (const number of [1, 2, 3]) await journal.append([number])
  await journal.close()
  const file = (await disk.read('journal'))!
  file[25]! ^= 1
  await disk.replace('journal', file)
  await assert.rejects(
    open(disk),
    (error) => error instanceof Fault && error.code === 'failed' && /damaged at byte 21/.test(error.message),
  )
  assert.deepEqual(await disk.read('journal'), file)
})

test('a full disk stalls the journal, and room lets it go on', async () => {
  const clock = virtualClock()
  const log = memoryLog()
  const disk = simDisk({ rng: seededRng(1), capacityBytes: 60 })
  await clock.run(async () => {
    const { journal } = await open(disk, { clock, log })
    await journal.append([1])
    let settled = false
    const waiting = journal.append([1_000_000_000_000, 2_000_000_000_000]).finally(() => (settled = true))
    await clock.sleep(10_000 as never)
    assert.equal(settled, false)
    assert.equal(log.lines.filter(({ event }) => event === 'journal.disk_full').length, 1)
    disk.setCapacity(10_000)
    await waiting
    await journal.append([3])
    assert.deepEqual((await open(disk)).replayed, [1, 1_000_000_000_000, 2_000_000_000_000, 3])
  })
})

test('a failed sync breaks the journal until it is opened anew', async () => {
  let failing = false
  const fault = new Fault('failed', 'input/output error')
  const disk = simDisk({ rng: seededRng(1), faults: (operation) => (failing && operation === 'sync' ? fault : null) })
  const { journal } = await open(disk)
  await journal.append([1])
  failing = true
  await assert.rejects(journal.append([2]), /is broken: input\/output error/)
  failing = false
  await assert.rejects(journal.append([3]), /is broken/)
  const again = await open(disk)
  await again.journal.append([4])
  assert.deepEqual(
    (await open(disk)).replayed.filter((number) => number !== 2),
    [1, 4],
  )
})

test('a closed journal takes nothing', async () => {
  const { journal } = await open(simDisk({ rng: seededRng(1) }))
  const last = journal.append([1])
  await journal.close()
  await last
  await assert.rejects(journal.append([2]), /is closed/)
})

/** Appends groups from several writers, crashes at the given operation, and reads what the next process finds. */
async function crashRun(seed: number): Promise<{ acknowledged: number[][]; replayed: number[]; disk: SimDisk }> {
  const rng = seededRng(seed)
  const crashAt = rng.below(120) + 1
  let operationCount = 0
  const state: number[] = []
  const acknowledged: number[][] = []
  let crash: () => void = () => {}
  const crashed = new Promise<void>((resolve) => (crash = resolve))
  let after: SimDisk | undefined
  const disk: SimDisk = simDisk({
    rng: rng.fork('disk'),
    onOperation: () => {
      operationCount += 1
      if (operationCount !== crashAt || after) return
      after = disk.crash()
      crash()
    },
  })
  let next = 0
  const { journal } = await Promise.race([
    open(disk, { snapshot: () => state, compactBytesMin: 200 }),
    crashed.then(() => ({ journal: null })),
  ])
  const writer = async (): Promise<void> => {
    for (let turn = 0; turn < 40; turn += 1) {
      const group = Array.from({ length: rng.below(3) + 1 }, () => (next += 1))
      state.push(...group)
      await journal?.append(group)
      acknowledged.push(group)
    }
  }
  if (journal) await Promise.race([Promise.all([writer(), writer(), writer()]), crashed])
  after ??= disk.crash()
  const { replayed } = await open(after)
  return { acknowledged, replayed, disk: after }
}

test('no acknowledged record is lost in a crash, none is out of order, and groups are whole', async () => {
  for (let seed = 0; seed < 300; seed += 1) {
    const { acknowledged, replayed } = await crashRun(seed)
    const found = new Set(replayed)
    for (const group of acknowledged) for (const number of group) assert.ok(found.has(number), `seed ${seed}: ${number} is lost`)
    assert.deepEqual(
      replayed,
      replayed.map((_, index) => index + 1),
      `seed ${seed}`,
    )
  }
})

test('a journal that crashed goes on after it was opened, again and again', async () => {
  for (let seed = 0; seed < 50; seed += 1) {
    const { replayed, disk } = await crashRun(seed)
    const { journal } = await open(disk)
    await journal.append([-1])
    const again = await open(disk.crash())
    assert.deepEqual(again.replayed, [...replayed, -1], `seed ${seed}`)
  }
})

test('sections of a state file keep to themselves, and come back together', async () => {
  const disk = simDisk({ rng: seededRng(1) })
  const options = { disk, name: 'state', clock: virtualClock(), log: memoryLog() }
  const first = stateFile(options)
  const domains = first.map<{ name: string }>('domains')
  const fences = first.map<number>('fences')
  await first.open()
  void domains.set('a', { name: 'web' })
  void domains.set('b', { name: 'db' })
  await fences.set('a', 7)
  await domains.delete('b')
  await first.compact()
  await fences.set('a', 8)
  await first.close()

  const second = stateFile(options)
  const [again, higher] = [second.map<{ name: string }>('domains'), second.map<number>('fences')]
  await second.open()
  assert.deepEqual([...again], [['a', { name: 'web' }]])
  assert.deepEqual([...higher], [['a', 8]])
  await second.close()

  const third = stateFile(options)
  third.map('domains')
  await assert.rejects(third.open(), /section fences is unknown to this version/)
})

test('a change that the disk did not take is told to who made it', async () => {
  const fault = new Fault('failed', 'input/output error')
  const disk: Disk = simDisk({ rng: seededRng(1), faults: (operation) => (operation === 'sync' ? fault : null) })
  const state = stateFile({ disk, name: 'state', clock: virtualClock(), log: memoryLog() })
  const map = state.map<number>('map')
  await state.open()
  await assert.rejects(map.set('a', 1), /is broken/)
})

test('an append that leaves a part behind is cut before the next try', async () => {
  let failures = 3
  const disk = simDisk({
    rng: seededRng(3),
    faults: (operation) => (operation === 'append' && failures-- > 0 ? new Fault('exhausted', 'no space left') : null),
  })
  const clock = virtualClock()
  await clock.run(async () => {
    const { journal } = await open(disk, { clock })
    await journal.append([1, 2, 3])
    const file: AppendFile = await disk.open('journal')
    assert.equal(journal.sizeBytes, file.sizeBytes)
    assert.deepEqual((await open(disk)).replayed, [1, 2, 3])
  })
})

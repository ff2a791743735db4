/** Migration between two drivers that share nothing but this process, on a real QEMU with the guest of one sector. */
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault } from '@typevisor/base'
import type { DriverDomain, MigrationPeer, MigrationStream, MigrationTarget } from '@typevisor/toolstack'
import { bench, consoleText, running, sweepingGuestDisk, type Bench } from './testing.ts'

const peerOf = (target: MigrationTarget): MigrationPeer => ({
  open: (channel) => target.connect(channel),
  disksDone: () => target.disksDone(),
})

/** The same domain, on disks of another host. */
async function twin(b: Bench, domain: DriverDomain): Promise<DriverDomain> {
  const there = await b.domain({ id: domain.id, name: domain.name, memoryMib: domain.spec.memoryBytes / 2 ** 20 })
  return { ...domain, volumes: there.volumes }
}

const numbers = (text: string): number[] =>
  [...text.matchAll(/^([0-9a-f]{8})$/gm)].map((match) => Number.parseInt(match[1] ?? '', 16))

test('a running guest goes to another driver with its memory and its disk, and stands still here', async (t) => {
  const [here, there] = [await bench(t), await bench(t)]
  const domain = await running(here)
  const onTarget = await twin(there, domain)
  const target = await there.driver.receive(onTarget)
  await assert.rejects(there.driver.unpause(domain.id), (error) => error instanceof Fault && error.code === 'conflict')
  const statistics = await here.driver.migrateTo(domain.id, peerOf(target))
  await target.loaded()
  assert.ok(statistics.memoryBytes > 100_000 && statistics.diskBytes >= 1024 * 1024, JSON.stringify(statistics))
  await there.driver.takeOver(domain.id)
  await there.driver.unpause(domain.id)
  const before = numbers(await consoleText(here.driver, domain, () => true)).at(-1) ?? 0
  const text = await consoleText(there.driver, domain, (said) => numbers(said).length > 20)
  // What was on its way in the serial port's queue is of neither log.
  const [first = 0] = numbers(text)
  assert.ok(first > before && first <= before + 3, `${before}, then ${first}`)
  await sleep(300)
  assert.equal(numbers(await consoleText(here.driver, domain, () => true)).at(-1), before, 'here it counts no more')
  await here.driver.destroy(domain.id)
  const [disk, moved] = await Promise.all(
    [domain, onTarget].map(({ volumes }) => readFile((Object.values(volumes)[0] as { path: string }).path)),
  )
  assert.ok(disk?.equals(moved ?? Buffer.alloc(0)))
})

test('memory goes by several streams; what comes of it can be saved, and goes on in steps that are told', async (t) => {
  const [here, there] = [await bench(t), await bench(t)]
  const domain = await running(here, { memoryMib: 64 })
  const onTarget = await twin(there, domain)
  const target = await there.driver.receive(onTarget, { channelCount: 2 })
  let memoryCount = 0
  const peer = peerOf(target)
  const phases = new Set<string>()
  await here.driver.migrateTo(
    domain.id,
    {
      ...peer,
      open(channel) {
        if (channel === 'memory') memoryCount += 1
        return peer.open(channel)
      },
    },
    { channelCount: 2, autoConverge: true, downtimeLimitMs: 100, onProgress: ({ phase }) => phases.add(phase) },
  )
  await target.loaded()
  assert.equal(memoryCount, 3)
  assert.deepEqual([...phases], ['disks', 'memory', 'switchover'])
  await there.driver.takeOver(domain.id)
  const path = join(there.folder, 'moved.save')
  await there.driver.save(domain.id, path)
  await there.driver.restore(onTarget, path)
  await there.driver.unpause(domain.id)
  assert.ok(numbers(await consoleText(there.driver, domain, (said) => numbers(said).length > 3)).length > 3)
  await here.driver.takeBack(domain.id, false)
  await here.driver.destroy(domain.id)
})

test('what a guest that never rests has written is all there, however often its memory was looked at', async (t) => {
  const [here, there] = [await bench(t), await bench(t)]
  const domain = await here.domain()
  await writeFile((Object.values(domain.volumes)[0] as { path: string }).path, sweepingGuestDisk())
  await here.driver.create(domain)
  await here.driver.unpause(domain.id)
  await consoleText(here.driver, domain, (text) => text.includes('..'))
  const target = await there.driver.receive(await twin(there, domain))
  // It writes 512 KiB over again all the while: at this speed QEMU would begin many passes.
  await here.driver.migrateTo(domain.id, peerOf(target), { bandwidthBytes: 2_000_000, downtimeLimitMs: 200, autoConverge: true })
  await target.loaded()
  await there.driver.takeOver(domain.id)
  await there.driver.unpause(domain.id)
  const text = await consoleText(there.driver, domain, (said) => /\.\.|X/.test(said))
  assert.match(text, /^\.*$/, 'pages that are not of one moment')
})

test('by post-copy it goes on there before its memory has come; a stream that breaks is joined again', async (t) => {
  const [here, there] = [await bench(t), await bench(t)]
  const can = (await there.driver.capabilities()).postCopy
  assert.ok(can)
  if (!can.can) return t.skip(can.reason)
  const domain = await here.domain({ memoryMib: 64 })
  await writeFile((Object.values(domain.volumes)[0] as { path: string }).path, sweepingGuestDisk())
  await here.driver.create(domain)
  await here.driver.unpause(domain.id)
  await consoleText(here.driver, domain, (text) => text.includes('..'))
  const target = await there.driver.receive(await twin(there, domain), { postCopy: true })
  const peer = peerOf(target)
  const memory: MigrationStream[] = []
  const open: MigrationPeer['open'] = async (channel) => {
    const stream = await peer.open(channel)
    if (channel === 'memory') memory.push(stream)
    return stream
  }
  await here.driver.migrateTo(domain.id, { ...peer, open }, { bandwidthBytes: 1_000_000, postCopy: true })
  const rest = here.driver.sendRest(domain.id, { open })
  await target.loaded()
  const { goneOnAt, isWhole } = await there.driver.takeOver(domain.id, { goesOn: true })
  assert.ok(goneOnAt !== null)
  assert.equal(isWhole, false)
  assert.equal((await there.driver.state(domain.id)).kind, 'running')
  memory[0]?.close()
  await Promise.all([rest, target.arrived()])
  assert.equal(memory.length, 2)
  const text = await consoleText(there.driver, domain, (said) => /\.\.|X/.test(said))
  assert.match(text, /^\.*$/, 'pages that are not of one moment')
  assert.equal((await there.driver.takeOver(domain.id)).isWhole, true)
  // It is a domain as any other: it moves on.
  await there.driver.save(domain.id, join(there.folder, 'moved.save'))
})

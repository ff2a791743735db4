import assert from 'node:assert/strict'
import { test } from 'node:test'
import { epochMillis, millis } from '@typevisor/base'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { isHostEvent } from '@typevisor/model'
import { stateFile } from '@typevisor/saga'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock } from '@typevisor/sim'
import { memoryVolumeStore, type ServerHello } from '@typevisor/storage'
import { openToolstack, type Toolstack } from '@typevisor/toolstack'
import { simImages } from '../sim-host.ts'
import { watchVolumeServer } from './watch.ts'

/** Agents, one after the other, on one folder: each a watch and a journal. */
function folder() {
  const clock = virtualClock()
  const log = memoryLog()
  const disk = simDisk({ rng: seededRng(1) })
  const hypervisor = new SimHypervisor(clock)
  return {
    clock,
    watch: () => watchVolumeServer({ clock, log }),
    open: () =>
      openToolstack({
        driver: createSimDriver({ hypervisor, clock }),
        volumes: memoryVolumeStore(),
        images: simImages,
        state: stateFile({ disk, name: 'agent.journal', clock, log }),
        saves: hypervisor.saveFolder,
        clock,
        ids: sequentialIds(),
        log,
        owner: 'agent',
      }),
  }
}

const helloOf = (pid: number, warningPercent: number | null = null): ServerHello => ({
  version: '1',
  pid,
  startedAt: epochMillis(pid),
  attachmentCount: 2,
  connectionCount: 2,
  space: { usedBytes: 8, availableBytes: 2, capacityBytes: 10, usedPercent: 80, limitedBy: 'store', warningPercent },
})

async function told(toolstack: Toolstack): Promise<string[]> {
  const last = toolstack.lastSequence()
  const seen: string[] = []
  if (last === 0) return seen
  for await (const event of toolstack.events(0)) {
    if (isHostEvent(event)) {
      const { from, to, cause, reconstructed, facts } = event
      seen.push(`${from}>${to} ${cause} ${facts['pid'] ?? ''}${reconstructed ? ' reconstructed' : ''}`.trim())
    }
    if (event.sequence >= last) break
  }
  return seen
}

test('what happens before the journal is open is noted when it is, and what an agent before has noted is not noted again', async () => {
  const { clock, watch, open } = folder()
  await clock.run(async () => {
    const first = watch()
    first.changed({ to: 'serving', cause: 'started', hello: helloOf(1) })
    let toolstack = await open()
    first.noteIn(toolstack)
    first.changed({ to: 'away', cause: 'hung', detail: 'killed', hello: helloOf(1) })
    first.changed({ to: 'serving', cause: 'started', hello: helloOf(2) })
    await first.close()
    await toolstack.close()
    const second = watch()
    second.changed({ to: 'serving', cause: 'found', hello: helloOf(2) })
    toolstack = await open()
    second.noteIn(toolstack)
    await second.close()
    assert.deepEqual(await told(toolstack), ['null>serving started 1', 'serving>away hung 1', 'away>serving started 2'])
    await toolstack.close()
  })
})

test('a server that is another one than an agent before had noted went away while nobody watched', async () => {
  const { clock, watch, open } = folder()
  await clock.run(async () => {
    let toolstack = await open()
    const first = watch()
    first.noteIn(toolstack)
    first.changed({ to: 'serving', cause: 'started', hello: helloOf(1) })
    await clock.sleep(millis(10))
    // Killed: it noted nothing more.
    await toolstack.close()
    const second = watch()
    toolstack = await open()
    second.noteIn(toolstack)
    second.changed({ to: 'serving', cause: 'started', hello: helloOf(2) })
    await second.stops()
    assert.deepEqual(await told(toolstack), [
      'null>serving started 1',
      'serving>away unknown 1 reconstructed',
      'away>serving started 2',
      'serving>away stopped 2',
    ])
    await toolstack.close()
  })
})

test('one that keeps failing is noted once, and each threshold of space once', async () => {
  const { clock, watch, open } = folder()
  await clock.run(async () => {
    const toolstack = await open()
    const one = watch()
    one.noteIn(toolstack)
    for (const detail of ['no room', 'still none']) one.changed({ to: 'away', cause: 'failed', detail, hello: null })
    assert.deepEqual([one.status().detail, one.status().space], ['no room', null])
    one.changed({ to: 'serving', cause: 'started', hello: helloOf(1) })
    for (const percent of [null, null, 80, 80, 95, null, null]) one.heard(helloOf(1, percent))
    const { state, attachedCount, space } = one.status()
    assert.deepEqual([state, attachedCount, space?.availableBytes], ['serving', 2, 2])
    await one.close()
    assert.deepEqual(await told(toolstack), [
      'null>away failed',
      'away>serving started 1',
      'null>over 80 % store',
      'over 80 %>over 95 % store',
      'over 95 %>enough store',
    ])
    await toolstack.close()
  })
})

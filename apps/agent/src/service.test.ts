import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bytes } from '@typevisor/base'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import type { ImageName } from '@typevisor/model'
import { stateFile } from '@typevisor/saga'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import { openToolstack } from '@typevisor/toolstack'
import { createAgentService } from './service.ts'
import { simImages } from './sim-host.ts'

test('an image is built once a command, also after a restart, and a late command of an older owner builds nothing', async () => {
  const clock = virtualClock()
  await clock.run(async () => {
    const log = memoryLog()
    const hypervisor = new SimHypervisor(clock)
    const disk = simDisk({ rng: seededRng(1) })
    let buildCount = 0
    const images = {
      ...simImages,
      build: async (name: ImageName) => {
        buildCount += 1
        return simImages.build(name)
      },
    }
    const open = async () => {
      const toolstack = await openToolstack({
        driver: createSimDriver({ hypervisor, clock }),
        volumes: memoryVolumeStore(),
        images,
        state: stateFile({ disk, name: 'agent.journal', clock, log }),
        saves: hypervisor.saveFolder,
        clock,
        ids: sequentialIds(),
        log,
        owner: 'agent',
      })
      const service = await createAgentService({
        name: 'h1',
        version: '0',
        toolstack,
        images,
        cpuCount: 1,
        memoryBytes: bytes(1024 ** 3),
        clock,
        log,
      })
      return {
        toolstack,
        build: (commandId: string, fence: number) => service.call('image.build', { name: 'micro', commandId, fence }),
      }
    }
    const first = await open()
    assert.equal((await first.build('a', 5)).name, 'micro')
    assert.equal((await first.build('a', 6)).name, 'micro', 'its owner was killed, and asks again')
    assert.equal(buildCount, 1)
    await first.toolstack.close()
    const second = await open()
    await second.build('a', 7)
    assert.equal(buildCount, 1)
    await assert.rejects(second.build('a', 6), { code: 'stale_fence' })
    await second.build('b', 8)
    assert.equal(buildCount, 2)
    await assert.rejects(second.build('a', 7), { code: 'stale_fence' })
    assert.equal(buildCount, 2)
    await second.toolstack.close()
  })
})

/** A toolstack on real QEMU whose saves cannot be removed, and whose QEMU is killed where it hurts: no old save comes back. */
import assert from 'node:assert/strict'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { epochMillis, Fault, type Clock } from '@typevisor/base'
import type { DomainId } from '@typevisor/model'
import { stateFile } from '@typevisor/saga'
import { seededRng, simDisk, type SimDisk } from '@typevisor/sim'
import { nodeCommandRunner, nodeVolumeFiles, qcow2VolumeStore } from '@typevisor/storage'
import { openToolstack, type DomainDriver, type Toolstack } from '@typevisor/toolstack'
import {
  bench,
  pidOf,
  silentLog,
  testClock,
  testDomain,
  testHost,
  testId,
  testIds,
  tinyGuestDisk,
  until,
  type Bench,
  noTransfers,
} from './testing.ts'

interface Host {
  readonly b: Bench
  readonly id: DomainId
  readonly disk: SimDisk
  open(driver: DomainDriver, disk?: SimDisk, clock?: Clock): Promise<Toolstack>
  saves(): Promise<string[]>
  killQemu(): Promise<void>
}

async function host(t: TestContext): Promise<Host> {
  const b = await bench(t)
  const domain = await b.domain()
  const folders = { volumes: join(b.folder, 'volumes'), saves: join(b.folder, 'saves') }
  for (const folder of Object.values(folders)) await mkdir(folder)
  const path = join(b.folder, 'base.raw')
  const base = tinyGuestDisk()
  await writeFile(path, base)
  const size = domain.spec.rootDiskBytes
  const image = {
    name: domain.spec.image,
    title: 'tiny',
    digest: 'tiny',
    builtAt: epochMillis(0),
    boot: domain.boot,
    rootDisk: { path, format: 'raw', virtualBytes: size, fileBytes: size },
    minimum: { memoryBytes: domain.spec.memoryBytes, diskBytes: size },
    defaultUser: 'root',
    contents: {},
  } as const
  const volumes = qcow2VolumeStore({
    files: await nodeVolumeFiles({ folder: folders.volumes }),
    runner: nodeCommandRunner(),
    log: silentLog,
  })
  const firstDisk = simDisk({ rng: seededRng(1) })
  return {
    b,
    id: domain.id,
    disk: firstDisk,
    open: async (driver, disk = firstDisk, clock = testClock) => {
      return await openToolstack({
        driver,
        volumes,
        images: { get: async () => image },
        state: stateFile({ disk, name: 'toolstack.journal', clock, log: silentLog }),
        saves: {
          pathOf: (id, save) => join(folders.saves, `${id}.${save}.save`),
          keepOnly: async () => {
            throw new Fault('failed', 'remove: input/output error')
          },
          freeBytes: async () => Infinity,
          ...noTransfers,
        },
        clock,
        ids: testIds,
        log: silentLog,
        owner: 'test',
      })
    },
    saves: () => readdir(folders.saves),
    killQemu: async () => {
      const process = await testHost().processes.identity(await pidOf(b, domain))
      assert.ok(process)
      await testHost().processes.signal(process, 'SIGKILL')
      await testHost().processes.waitExit(process, { signal: AbortSignal.timeout(10_000) })
    },
  }
}

const command = () => ({ commandId: testId() })
const isCrashed = (toolstack: Toolstack, id: DomainId) => () => toolstack.get(id)?.state.kind === 'crashed'

test('QEMU killed as it is to be saved: the old save, which could not be removed, is not taken for the new one', async (t) => {
  const { b, id, open, saves, killQemu } = await host(t)
  let isToDie = false
  const save = b.driver.save.bind(b.driver)
  b.driver.save = async (...call) => {
    if (isToDie) await killQemu()
    return await save(...call)
  }
  const toolstack = await open(b.driver)
  await toolstack.define(id, testDomain({ id }).spec, command())
  for (const verb of ['start', 'save', 'restore'] as const) await toolstack.carryOut(verb, id, command())
  assert.equal((await saves()).length, 1)
  isToDie = true
  await assert.rejects(toolstack.carryOut('save', id, command()), { code: 'conflict' })
  await until(isCrashed(toolstack, id), 'crashed')
  await assert.rejects(toolstack.carryOut('restore', id, command()), { code: 'conflict' })
  assert.equal((await saves()).length, 1)
  await toolstack.close()
})

test('QEMU and toolstack killed just as a restored guest goes on: crashed, and not restored a second time', async (t) => {
  const { b, id, disk, open, killQemu } = await host(t)
  // Whose process is dead waits for nothing any more, its disk that is gone included.
  let isDead = false
  const never = new Promise<never>(() => {})
  const clock = { ...testClock, sleep: (...call: Parameters<Clock['sleep']>) => (isDead ? never : testClock.sleep(...call)) }
  const first = await open(b.driver, disk, clock)
  await first.define(id, testDomain({ id }).spec, command())
  for (const verb of ['start', 'save'] as const) await first.carryOut(verb, id, command())
  const went = Promise.withResolvers<void>()
  const unpause = b.driver.unpause.bind(b.driver)
  b.driver.unpause = async (...call) => {
    await unpause(...call)
    went.resolve()
    isDead = true
    await never
  }
  first.carryOut('restore', id, { commandId: 'restore' }).catch(() => {})
  await went.promise
  const left = disk.crash()
  await b.driver.close()
  await killQemu()
  const second = await open(b.open(), left)
  await assert.rejects(second.carryOut('restore', id, { commandId: 'restore' }), { code: 'conflict' })
  await until(isCrashed(second, id), 'crashed')
  await assert.rejects(second.carryOut('restore', id, command()), { code: 'conflict' })
  await second.close()
})

import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile, readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DriverDomain } from '@typevisor/toolstack'
import { createNodeHost, createQemuDriver, type QemuDriver, type QemuDriverOptions } from './index.ts'
import { silentLog, testClock, testDomain, testIds, tinyGuestDisk, type TestDomainOptions } from './testing.ts'

interface Bench {
  readonly folder: string
  readonly driver: QemuDriver
  domain(options?: TestDomainOptions): Promise<DriverDomain>
  /** Another driver on the same folders. */
  open(options?: Partial<QemuDriverOptions>): QemuDriver
}

/** A driver on a folder of its own; all its domains are destroyed and the folder removed at the end. */
async function bench(t: TestContext, options: Partial<QemuDriverOptions> = {}): Promise<Bench> {
  const folder = await mkdtemp(join(tmpdir(), 'tvq-'))
  const drivers: QemuDriver[] = []
  const domains: DriverDomain[] = []
  const open = (more: Partial<QemuDriverOptions> = {}): QemuDriver => {
    const driver = createQemuDriver({
      dataDir: join(folder, 'data'),
      runDir: join(folder, 'run'),
      host: createNodeHost(),
      clock: testClock,
      ids: testIds,
      log: silentLog,
      accelerator: 'tcg',
      ...options,
      ...more,
    })
    drivers.push(driver)
    return driver
  }
  t.after(async () => {
    for (const driver of drivers) await driver.close()
    const last = open()
    for (const domain of domains) await last.destroy(domain.id)
    await last.close()
    await rm(folder, { recursive: true })
  })
  let diskCount = 0
  return {
    folder,
    driver: open(),
    open,
    async domain(domainOptions = {}) {
      diskCount += 1
      const path = join(folder, `root${diskCount}.raw`)
      await writeFile(path, tinyGuestDisk())
      const domain = testDomain({ volumes: { root: { kind: 'file', path, format: 'raw' } }, ...domainOptions })
      domains.push(domain)
      return domain
    },
  }
}

async function consoleText(driver: QemuDriver, domain: DriverDomain, isEnough: (text: string) => boolean, limitMs = 15_000): Promise<string> {
  const end = Date.now() + limitMs
  while (true) {
    const { content } = await driver.readConsole(domain.id, 0, 16 * 1024 * 1024)
    const text = new TextDecoder('latin1').decode(content)
    if (isEnough(text)) return text
    assert.ok(Date.now() < end, `the console never said enough: ${JSON.stringify(text.slice(-200))}`)
    await sleep(20)
  }
}

test('a domain is created paused, runs, pauses, goes on and is destroyed with nothing left', async (t) => {
  const { driver, domain: make, folder } = await bench(t)
  const domain = await make()
  const start = performance.now()
  await driver.create(domain)
  t.diagnostic(`create: ${(performance.now() - start).toFixed(0)} ms`)
  assert.deepEqual(await driver.state(domain.id), { kind: 'paused', cause: 'requested' })
  await driver.unpause(domain.id)
  await consoleText(driver, domain, (text) => text.includes('00000002\n'))
  await driver.pause(domain.id)
  assert.deepEqual(await driver.state(domain.id), { kind: 'paused', cause: 'requested' })
  await driver.unpause(domain.id)
  assert.deepEqual(await driver.state(domain.id), { kind: 'running' })
  await driver.destroy(domain.id)
  assert.equal((await driver.state(domain.id)).kind, 'gone')
  assert.deepEqual(await readdir(join(folder, 'run')), [])
})

/**
 * A host and its volume server in the portal: the real agent of a QEMU host, whose store lies on a small file system that others fill, and
 * whose server is killed and kept from starting. Needs root for the file system.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { copyFile, mkdir, rename, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import type { Page } from 'playwright-core'
import { CHROMIUM, hasChromium, openBrowser, shoot, signIn, type TestBrowser } from './browser.ts'
import { ensureBuilt } from './built.ts'
import { faintTexts } from './legible.ts'
import { startPlatform, type TestPlatform } from './platform.ts'
import { assertLegible } from './portal.ts'

const run = promisify(execFile)
const isRoot = process.getuid?.() === 0
const skip = !hasChromium() ? `no Chromium at ${CHROMIUM}` : !isRoot ? 'a file system of its own needs root' : false
const SLOW = { timeout: 60_000 }
let platform: TestPlatform
let browser: TestBrowser
let page: Page
let disks = ''

const row = (name: string) => page.locator(`[data-testid="row"][data-name="${name}"]`)
const event = (words: string) => page.getByTestId('event').filter({ hasText: words }).first()
const volumeServer = async () => (await platform.client.call('host.get', { params: { host: 'local' } })).volumeServer
/** Fills the file system until so much of it is left. */
async function leave(bytesLeft: number): Promise<void> {
  const { bavail, bsize } = await statfs(disks)
  await writeFile(join(disks, 'filler'), new Uint8Array(bavail * bsize - bytesLeft))
}
const MIB = 1024 * 1024

before(async () => {
  if (skip !== false) return
  await ensureBuilt()
  platform = await startPlatform({
    driver: 'qemu',
    async prepare(dataDir) {
      disks = join(dataDir, 'agent', 'disks')
      await mkdir(disks, { recursive: true })
      await run('mount', ['-t', 'tmpfs', '-o', 'size=192m', 'tmpfs', disks])
      return async () => void (await run('umount', ['-l', disks]))
    },
  })
  browser = await openBrowser({ origin: platform.url })
  ;({ page } = browser)
  await page.goto(`${platform.url}/hosts`)
  await signIn(page, platform.password)
})
after(async () => {
  await browser?.[Symbol.asyncDispose]()
  await platform?.[Symbol.asyncDispose]()
})

test('the list leads to a page of the host, with its volume server and what it went through', { skip }, async () => {
  await row('local').getByText('% used').waitFor(SLOW)
  await shoot(page, 'hosts-volumes')
  await row('local').getByRole('link', { name: 'local' }).click()
  await page.getByRole('heading', { name: 'local' }).waitFor()
  const volumes = page.getByTestId('volumes')
  await volumes.getByText('0 volumes').waitFor()
  await volumes.getByText('available on its file system').waitFor()
  await event('serving').waitFor()
  assert.equal(await page.getByTestId('space-warning').count(), 0)
  await shoot(page, 'host')
})

test('a store that fills says so on the page without a reload, and in the list', { skip, timeout: 120_000 }, async () => {
  await leave(2 * MIB)
  const warning = page.getByTestId('space-warning')
  await warning.waitFor(SLOW)
  const percent = Number(await warning.getAttribute('data-percent'))
  assert.ok([80, 90, 95].includes(percent))
  await event(`over ${percent} %`).waitFor()
  await shoot(page, 'host-fills')
  await assertLegible(platform, {
    path: '/hosts/local',
    ready: 'event',
    picture: 'host-fills',
    opened: {
      what: 'list',
      picture: 'hosts-fills',
      open: async (other) => {
        await other.goto(`${platform.url}/hosts`)
        await other.getByTestId('row').first().waitFor()
      },
    },
  })
  await rm(join(disks, 'filler'))
  await warning.waitFor({ state: 'detached', ...SLOW })
  await event('enough').waitFor()
})

test(
  'a volume server that cannot start is away, with its last words, and back when it can',
  { skip, timeout: 120_000 },
  async () => {
    const store = join(disks, 'store')
    await copyFile(store, `${store}.kept`)
    const lines = (await run('pgrep', ['-f', `process.ts --dir ${disks} `])).stdout.trim().split('\n')
    assert.equal(lines.length, 1)
    await rename(store, `${store}.moved`)
    await writeFile(store, Buffer.alloc(MIB, 'no store'))
    process.kill(Number(lines[0]), 'SIGKILL')
    const away = page.getByTestId('volumes-away')
    await away.getByText('superblocks').waitFor(SLOW)
    assert.equal((await volumeServer())?.state, 'away')
    await event('SIGKILL').waitFor()
    await shoot(page, 'host-away')
    await using phone = await openBrowser({ origin: platform.url, width: 390, height: 844, scheme: 'dark' })
    await phone.page.goto(`${platform.url}/hosts/local`)
    await signIn(phone.page, platform.password)
    await phone.page.getByTestId('volumes-away').waitFor()
    await shoot(phone.page, 'host-away-dark-390')
    assert.deepEqual(await faintTexts(phone.page), [])
    await rename(`${store}.kept`, store)
    await away.waitFor({ state: 'detached', ...SLOW })
    await page.getByTestId('volumes').getByText('(started)').waitFor()
    assert.deepEqual(browser.errors, [])
  },
)

test('a host that is not there is said, with the way to those that are', { skip }, async () => {
  await page.goto(`${platform.url}/hosts/nobody`)
  await page.getByText('There is no host nobody').waitFor()
  await page.getByRole('link', { name: 'To the hosts' }).click()
  await row('local').waitFor()
})

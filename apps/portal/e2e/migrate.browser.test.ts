/** An instance moves to another host, asked for in the portal: the dialog offers the hosts that are there, and the page follows it. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { Page } from 'playwright-core'
import { CHROMIUM, hasChromium, openBrowser, shoot, signIn, type TestBrowser } from './browser.ts'
import { ensureBuilt } from './built.ts'
import { faintTexts, namelessControls } from './legible.ts'
import { startPlatform, type TestPlatform } from './platform.ts'

const skip = hasChromium() ? false : `no Chromium at ${CHROMIUM}`
const MAIN = join(import.meta.dirname, '../../cli/src/main.ts')
let platform: TestPlatform
let browser: TestBrowser
let page: Page
let folder: string
let agent: ChildProcess | undefined

before(async () => {
  if (skip !== false) return
  await ensureBuilt()
  platform = await startPlatform({ driver: 'sim' })
  folder = await mkdtemp(join(tmpdir(), 'typevisor-migrate-'))
  await platform.client.call('instance.create', { query: { wait: 20 }, body: { name: 'web-1' } })
  await platform.client.call('instance.snapshot', { query: { wait: 20 }, params: { instance: 'web-1' }, body: { name: 'first' } })
  browser = await openBrowser({ origin: platform.url })
  ;({ page } = browser)
  await page.goto(`${platform.url}/instances/web-1`)
  await signIn(page, platform.password)
})
after(async () => {
  if (agent) {
    const ended = once(agent, 'exit')
    agent.kill('SIGTERM')
    await ended
  }
  await browser?.[Symbol.asyncDispose]()
  await platform?.[Symbol.asyncDispose]()
  if (folder) await rm(folder, { recursive: true, force: true })
})

test('with one host there is nowhere to go; on another that joins it runs on', { skip, timeout: 60_000 }, async () => {
  const ask = async () => {
    await page.getByTestId('verbs').click()
    await page.getByTestId('verb-migrate').click()
  }
  await ask()
  await page.getByTestId('migrate-form').getByText('No other host is connected').waitFor()
  await page.getByRole('button', { name: 'Cancel' }).click()

  const { secret } = await platform.client.call('host.token', { body: { name: 'other' } })
  const words = ['agent', '--server', platform.url, '--name', 'other', '--driver', 'sim', '--data', folder]
  agent = spawn(process.execPath, [MAIN, ...words], { stdio: 'ignore', env: { ...process.env, TYPEVISOR_HOST_TOKEN: secret } })
  await ask()
  await page.getByTestId('field-host').locator('option[value="other"]').waitFor({ state: 'attached' })
  await shoot(page, 'migrate')
  assert.deepEqual([await faintTexts(page), await namelessControls(page)], [[], []])
  await page.getByRole('button', { name: 'Migrate' }).click()
  await page.getByTestId('migrate-form').getByText('no snapshots').first().waitFor()
  await page.getByTestId('field-drop-snapshots').check()
  await page.getByRole('button', { name: 'Migrate' }).click()
  await page.getByTestId('migrate-form').waitFor({ state: 'detached' })
  await page.getByText('other', { exact: true }).first().waitFor()
  const { host, state } = await platform.client.call('instance.get', { params: { instance: 'web-1' } })
  assert.deepEqual([host, state.kind], ['other', 'running'])
})

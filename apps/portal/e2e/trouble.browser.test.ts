/**
 * What a person sees, and can do, when things have gone wrong: an operation that is stuck, a host that is gone. A real browser, a real
 * platform with guests in memory; only the undo that has failed for good is written into the database, since no test has its time.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { Page } from 'playwright-core'
import { CHROMIUM, hasChromium, openBrowser, type TestBrowser } from './browser.ts'
import { ensureBuilt } from './built.ts'
import { startPlatform, type TestHost, type TestPlatform } from './platform.ts'

const skip = hasChromium() ? false : `no Chromium at ${CHROMIUM}`
let platform: TestPlatform
let browser: TestBrowser
let page: Page
let rack: TestHost

const shoot = async (name: string): Promise<void> => {
  const folder = process.env['PORTAL_SCREENSHOTS']
  if (folder !== undefined) await page.screenshot({ path: join(folder, `${name}.png`) })
}
const row = (name: string) => page.locator(`[data-testid="row"][data-name="${name}"]`)
const create = (name: string, host: string) =>
  platform.client.call('instance.create', { query: { wait: 30 }, body: { name, host } })

/** An instance's `pause` that failed and could not be undone. */
async function stick(name: string): Promise<string> {
  const { id } = await platform.client.call('instance.get', { params: { instance: name } })
  const operation = randomUUID()
  const fault = { code: 'failed', message: `pause ${name}: the monitor answered nonsense` }
  await platform.sql(`INSERT INTO saga (id, name, resource, input, state_kind, state) VALUES ($1, $2, $3, $4, 'stuck', $5)`, [
    operation,
    'instance.pause',
    id,
    JSON.stringify({ id, name, host: 'local', verb: 'pause' }),
    JSON.stringify({ kind: 'stuck', stepIndex: 0, fault, undoFault: fault }),
  ])
  return operation
}
const stateOf = async (operation: string) =>
  (await platform.client.call('operation.get', { params: { operation }, query: { wait: 10 } })).state

before(
  async () => {
    if (skip !== false) return
    await ensureBuilt()
    platform = await startPlatform({ driver: 'sim' })
    rack = await platform.join('rack-2')
    await Promise.all([create('web-1', 'local'), create('web-2', 'local'), create('db-1', 'rack-2'), create('db-2', 'rack-2')])
    browser = await openBrowser({ origin: platform.url })
    ;({ page } = browser)
    await page.goto(`${platform.url}/operations`)
    await page.getByLabel('Password', { exact: true }).fill(platform.password)
    await page.getByRole('button', { name: 'Sign in' }).click()
    await page.getByRole('heading', { name: 'Operations' }).waitFor()
  },
  { timeout: 120_000 },
)
after(async () => {
  await browser?.[Symbol.asyncDispose]()
  await platform?.[Symbol.asyncDispose]()
})

test('what is stuck is said on the page of its instance, and tried again from there', { skip }, async () => {
  const operation = await stick('web-1')
  await page.goto(`${platform.url}/instances/web-1`)
  const notice = page.getByTestId('stuck')
  await notice.getByText('the monitor answered nonsense').waitFor()
  await shoot('instance-stuck')
  await notice.getByTestId('operation-retry').click()
  await notice.waitFor({ state: 'detached' })
  assert.equal(await stateOf(operation), 'undone')
})

test('abandoning says what it means, and is done only when confirmed', { skip }, async () => {
  const operation = await stick('web-2')
  await page.goto(`${platform.url}/operations?show=stuck`)
  const stuck = row('instance.pause web-2')
  await stuck.getByTestId('operation-abandon').click()
  await page
    .getByTestId('confirm')
    .getByText(/stays as it is/)
    .waitFor()
  await shoot('operation-abandon')
  await page.keyboard.press('Escape')
  assert.equal(await stateOf(operation), 'stuck')
  await stuck.getByTestId('operation-abandon').click()
  await page.getByTestId('confirm-go').click()
  await page.getByText('Nothing is stuck').waitFor()
  assert.equal(await stateOf(operation), 'undone')
  await page.goBack()
})

test('an operation that waits for its host says so, and can be cancelled', { skip }, async () => {
  await rack.kill()
  const { operation } = await platform.client.call('instance.pause', { params: { instance: 'db-1' } })
  await page.goto(`${platform.url}/instances/db-1`)
  const strip = page.getByTestId('progress')
  await strip.getByText('waits for host rack-2, which is not connected').waitFor()
  await shoot('operation-waits')
  await strip.getByTestId('operation-cancel').click()
  await strip.waitFor({ state: 'detached' })
  assert.equal(await stateOf(operation.id), 'undone')
})

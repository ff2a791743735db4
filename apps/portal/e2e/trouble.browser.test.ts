/**
 * What a person sees, and can do, when things have gone wrong: an operation that is stuck, a host that is gone. A real browser, a real
 * platform with guests in memory; only the undo that has failed for good is written into the database, since no test has its time.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, test } from 'node:test'
import type { Page } from 'playwright-core'
import { CHROMIUM, hasChromium, openBrowser, shoot, signIn, type TestBrowser } from './browser.ts'
import { ensureBuilt } from './built.ts'
import { startPlatform, type TestHost, type TestPlatform } from './platform.ts'

const skip = hasChromium() ? false : `no Chromium at ${CHROMIUM}`
let platform: TestPlatform
let browser: TestBrowser
let page: Page
let rack: TestHost

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
    await signIn(page, platform.password)
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
  await shoot(page, 'instance-stuck')
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
  await shoot(page, 'operation-abandon')
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
  await shoot(page, 'operation-waits')
  await strip.getByTestId('operation-cancel').click()
  await strip.waitFor({ state: 'detached' })
  assert.equal(await stateOf(operation.id), 'undone')
})

test('an instance whose host is gone is destroyed by force, once its name is typed', { skip }, async () => {
  await page.goto(`${platform.url}/instances/db-1`)
  await page.getByTestId('away').getByText('Host rack-2 is not connected').waitFor()
  await shoot(page, 'instance-away')
  await page.getByTestId('destroy-by-force').click()
  await page.getByTestId('by-force').waitFor()
  await shoot(page, 'destroy-by-force')
  await page.getByTestId('confirm-word').fill('db-1')
  await page.getByTestId('confirm-go').click()
  await page.getByText('There is no instance db-1').waitFor()
})

test('a host that is gone is removed with what is on it, all of it named first', { skip }, async () => {
  await page.goto(`${platform.url}/hosts`)
  assert.equal(await row('local').getByTestId('remove-host').isDisabled(), true, 'a host that is connected is not removed')
  await row('rack-2').getByTestId('remove-host').click()
  await page.getByTestId('goes-with-it').getByText('db-2').waitFor()
  await shoot(page, 'host-remove')
  assert.equal(await page.getByTestId('confirm-go').isDisabled(), true)
  await page.getByTestId('confirm-word').fill('rack-2')
  await page.getByTestId('confirm-go').click()
  await row('rack-2').waitFor({ state: 'detached' })
  const { items } = await platform.client.call('instance.list', { query: {} })
  assert.deepEqual(
    items.map((instance) => instance.name),
    ['web-1', 'web-2'],
  )
})

test(
  'a host is added: the command is shown, and the dialog says when its agent has come',
  { skip, timeout: 60_000 },
  async () => {
    await page.getByTestId('join').click()
    await page.getByLabel('Name of the host').fill('rack-3')
    await page.getByRole('button', { name: 'Make a token' }).click()
    await page.getByText(/^typevisor agent --server/).waitFor()
    await page.locator('[data-testid="joined"][data-joined="false"]').waitFor()
    await shoot(page, 'host-add')
    await using _agent = await platform.agent('rack-3', await page.getByTestId('secret').innerText())
    await page.locator('[data-testid="joined"][data-joined="true"]').waitFor()
    await page.getByRole('button', { name: 'Done' }).click()
    await row('rack-3').getByText('Connected').waitFor()
  },
)

test('operations and the audit log speak of things by name, of those that are gone too', { skip }, async () => {
  await page.goto(`${platform.url}/operations`)
  await row('instance.destroy db-1').waitFor()
  await page.goto(`${platform.url}/settings/audit`)
  await page.getByTestId('row').filter({ hasText: 'instance.destroy' }).getByText('db-1', { exact: true }).waitFor()
  await page.getByTestId('row').filter({ hasText: 'host.delete' }).getByText('rack-2', { exact: true }).waitFor()
  await shoot(page, 'audit-names')
})

test("one's own password is changed only by who knows it, and the session goes on", { skip }, async () => {
  await page.goto(`${platform.url}/settings`)
  const form = page.getByTestId('password-form')
  const fill = async (current: string) => {
    await form.getByLabel('Current password').fill(current)
    await form.getByLabel('New password').fill('a new one, long enough')
    await form.getByLabel('Again').fill('a new one, long enough')
    await form.getByRole('button', { name: 'Set the password' }).click()
  }
  await fill('not the one')
  await form.getByText('This is not your password until now').waitFor()
  assert.equal(await form.getByLabel('Current password').getAttribute('aria-invalid'), 'true')
  await fill(platform.password)
  await form.getByText('The password is set').waitFor()
  await page.reload()
  await page.getByTestId('password-form').waitFor()
})

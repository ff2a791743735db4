/** An instance moves to another host, and is copied, asked for in the portal: the dialogs offer what there is, and the page follows. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Page } from 'playwright-core'
import { CHROMIUM, hasChromium, shoot } from './browser.ts'
import { faintTexts, namelessControls } from './legible.ts'
import type { TestPlatform } from './platform.ts'
import { openPortal, type OpenPortal } from './portal.ts'

const skip = hasChromium() ? false : `no Chromium at ${CHROMIUM}`
let portal: OpenPortal | undefined
let platform: TestPlatform
let page: Page

before(async () => {
  if (skip !== false) return
  portal = await openPortal({}, ({ client }) =>
    client.call('instance.snapshot', { query: { wait: 20 }, params: { instance: 'web-1' }, body: { name: 'first' } }),
  )
  ;({ platform, page } = portal)
})
after(() => portal?.[Symbol.asyncDispose]())

test('with one host there is nowhere to go; on another that joins it runs on', { skip, timeout: 60_000 }, async () => {
  const ask = async () => {
    await page.getByTestId('verbs').click()
    await page.getByTestId('verb-migrate').click()
  }
  await ask()
  await page.getByTestId('migrate-form').getByText('No other host is connected').waitFor()
  await page.getByRole('button', { name: 'Cancel' }).click()

  const joining = platform.join('other')
  await ask()
  await page.getByTestId('field-host').locator('option[value="other"]').waitFor({ state: 'attached' })
  await joining
  await shoot(page, 'migrate')
  assert.deepEqual([await faintTexts(page), await namelessControls(page)], [[], []])
  await page.getByRole('button', { name: 'Migrate' }).click()
  await page.getByTestId('migrate-form').getByText('no snapshots').first().waitFor()
  await page.getByTestId('field-drop-snapshots').check()
  await page.getByTestId('field-post-copy').check()
  await page.getByRole('button', { name: 'Migrate' }).click()
  await page.getByTestId('migrate-form').waitFor({ state: 'detached' })
  await page.getByText('other', { exact: true }).first().waitFor()
  const { host, state } = await platform.client.call('instance.get', { params: { instance: 'web-1' } })
  assert.deepEqual([host, state.kind], ['other', 'running'])
})

test('one that is saved moves as it stands, and the dialog says so', { skip, timeout: 60_000 }, async () => {
  const params = { instance: 'web-1' }
  await platform.client.call('instance.save', { params, query: { wait: 20 } })
  await page.locator('[data-testid="state"][data-state="saved"]').waitFor()
  await page.getByTestId('verbs').click()
  await page.getByTestId('verb-migrate').click()
  await page.getByTestId('migrate-form').getByText('Its saved memory and its disks go from other').waitFor()
  await page.getByRole('button', { name: 'Migrate' }).click()
  await page.getByTestId('migrate-form').waitFor({ state: 'detached' })
  await page.getByText('local', { exact: true }).first().waitFor()
  const { host, state } = await platform.client.call('instance.get', { params })
  assert.deepEqual([host, state.kind], ['local', 'saved'])
})

test('a copy of it as it is now is made, and is followed', { skip, timeout: 60_000 }, async () => {
  await platform.client.call('instance.restore', { params: { instance: 'web-1' }, query: { wait: 20 } })
  await page.locator('[data-testid="state"][data-state="running"]').waitFor()
  await page.getByTestId('verbs').click()
  await page.getByTestId('verb-copy').click()
  await page.getByTestId('field-quiesce').selectOption('must')
  await shoot(page, 'copy')
  assert.deepEqual([await faintTexts(page), await namelessControls(page)], [[], []])
  await page.getByTestId('field-copy-name').fill('web-1')
  await page.getByRole('button', { name: 'Copy it' }).click()
  await page.getByTestId('copy-form').getByText('web-1').first().waitFor()
  await page.getByTestId('field-copy-name').fill('web-9')
  await page.getByRole('button', { name: 'Copy it' }).click()
  await page.getByTestId('copy-form').waitFor({ state: 'detached' })
  const state = async () => (await platform.client.call('instance.get', { params: { instance: 'web-9' } })).state.kind
  for (const end = performance.now() + 20_000; (await state()) !== 'running';) assert.ok(performance.now() < end, await state())
})

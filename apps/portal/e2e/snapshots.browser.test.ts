/** Snapshots in the portal: taken, gone back to, cloned and deleted by a person, and by another whom the page must follow. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Page } from 'playwright-core'
import { CHROMIUM, hasChromium, shoot, type TestBrowser } from './browser.ts'
import type { TestPlatform } from './platform.ts'
import { assertLegible, openPortal, type OpenPortal } from './portal.ts'

const skip = hasChromium() ? false : `no Chromium at ${CHROMIUM}`
let portal: OpenPortal | undefined
let platform: TestPlatform
let browser: TestBrowser
let page: Page

const row = (name: string) => page.locator(`[data-testid="row"][data-name="${name}"]`)
const state = (kind: string) => page.locator(`[data-testid="state"][data-state="${kind}"]`)
const asks = async (snapshot: string, act: string): Promise<void> => {
  await row(snapshot).getByTestId('row-menu').click()
  await page.getByTestId(`snapshot-${act}`).click()
}
const query = { wait: 20 }
const params = { instance: 'web-1' }

before(async () => {
  if (skip !== false) return
  portal = await openPortal()
  ;({ platform, browser, page } = portal)
})
after(() => portal?.[Symbol.asyncDispose]())

test('an instance without snapshots invites to take one, and a name that is taken is said at the name', { skip }, async () => {
  await page.getByRole('link', { name: 'Snapshots' }).click()
  await page.getByTestId('empty').getByText('No snapshots').waitFor()
  await shoot(page, 'snapshots-empty')
  await page.getByTestId('take-snapshot').click()
  const name = page.getByTestId('field-snapshot-name')
  assert.match(await name.inputValue(), /^\d{4}-\d{2}-\d{2}-\d{4}$/)
  await name.fill('monday')
  await shoot(page, 'snapshot-take')
  await page.getByRole('button', { name: 'Take it' }).click()
  await row('monday').getByText('at rest').waitFor()
  await page.getByTestId('take-snapshot').click()
  await name.fill('monday')
  await page.getByRole('button', { name: 'Take it' }).click()
  await page.locator('[data-testid="field-snapshot-name"][aria-invalid="true"]').waitFor()
  await name.fill('busy')
  await page.getByTestId('field-memory').check()
  await page.getByRole('button', { name: 'Take it' }).click()
  await row('busy').getByText('disks and memory').waitFor()
  await state('running').waitFor()
})

test('the guest can be made to freeze its file systems, and what each choice means is said', { skip }, async () => {
  await page.getByTestId('take-snapshot').click()
  await page.getByTestId('field-snapshot-name').fill('frozen')
  const form = page.getByTestId('snapshot-form')
  await form.getByText('if it answers').waitFor()
  await page.getByTestId('field-quiesce').selectOption('no')
  await form.getByText('recover as after a power cut').waitFor()
  await page.getByTestId('field-quiesce').selectOption('must')
  await form.getByText('no snapshot is taken').waitFor()
  await shoot(page, 'snapshot-must')
  const sent = page.waitForRequest((request) => request.method() === 'POST' && request.url().endsWith('/snapshots'))
  await page.getByRole('button', { name: 'Take it' }).click()
  assert.equal(((await sent).postDataJSON() as { quiesce: string }).quiesce, 'must')
  await row('frozen').waitFor()
  await platform.client.call('instance.snapshot-delete', { params: { ...params, snapshot: 'frozen' }, query })
  await row('frozen').waitFor({ state: 'detached' })
})

test('what another takes shows without a reload', { skip }, async () => {
  await platform.client.call('instance.snapshot', { params, query, body: { name: 'elsewhere', quiesce: 'no' } })
  await row('elsewhere').getByText('recover as after a power cut').waitFor()
  assert.deepEqual(await page.getByTestId('row').evaluateAll((rows) => rows.map((each) => each.getAttribute('data-name'))), [
    'elsewhere',
    'busy',
    'monday',
  ])
  await shoot(page, 'snapshots')
})

test('going back says what is lost, asks for the name, and leads to what the snapshot holds', { skip }, async () => {
  await platform.client.call('instance.poweroff', { params, query })
  await state('stopped').waitFor()
  await asks('busy', 'revert')
  const dialog = page.getByTestId('confirm')
  await dialog.getByText('What was written to its disks since then').waitFor()
  await dialog.getByText('It goes on from the memory of the snapshot, running.').waitFor()
  assert.equal(await page.getByTestId('confirm-go').isDisabled(), true)
  await page.getByTestId('confirm-word').fill('web-1')
  await shoot(page, 'snapshot-revert')
  await page.getByTestId('confirm-go').click()
  await state('running').waitFor()
  await asks('monday', 'revert')
  await dialog.getByText('what runs in it now ends').waitFor()
  await dialog.getByLabel('Start it afterwards').uncheck()
  await page.getByTestId('confirm-word').fill('web-1')
  await page.getByTestId('confirm-go').click()
  await state('stopped').waitFor()
})

test('a clone is an instance of its own, and a deleted snapshot is gone from the list', { skip }, async () => {
  await asks('monday', 'clone')
  assert.equal(await page.getByTestId('field-clone-name').inputValue(), 'web-1-monday')
  await page.getByTestId('field-clone-name').fill('web-1')
  await page.getByRole('button', { name: 'Clone it' }).click()
  await page.locator('[data-testid="field-clone-name"][aria-invalid="true"]').waitFor()
  await page.getByTestId('field-clone-name').fill('web-2')
  await shoot(page, 'snapshot-clone')
  await page.getByRole('button', { name: 'Clone it' }).click()
  await page.getByTestId('clone-form').waitFor({ state: 'detached' })
  await page.goto(`${platform.url}/instances/web-2`)
  await state('running').waitFor()
  await page.goto(`${platform.url}/instances/web-1/snapshots`)
  await asks('monday', 'snapshot-delete')
  await page.getByTestId('confirm-word').fill('monday')
  await page.getByTestId('confirm-go').click()
  await row('monday').waitFor({ state: 'detached' })
  assert.equal((await platform.client.call('instance.get', { params })).snapshotCount, 2)
})

test('destroying says how many snapshots go too', { skip }, async () => {
  await page.getByTestId('verbs').click()
  await page.getByTestId('verb-destroy').click()
  await page.getByTestId('confirm').getByText('removed with its disks and 2 snapshots').waitFor()
  await page.keyboard.press('Escape')
})

test('the snapshots fit a phone and can be read, in the dark as in the light', { skip }, async () => {
  await assertLegible(platform, {
    path: '/instances/web-1/snapshots',
    ready: 'row',
    picture: 'snapshots',
    opened: {
      what: 'form',
      picture: 'snapshot-take',
      open: async (other) => {
        await other.getByTestId('take-snapshot').click()
        await other.getByTestId('snapshot-form').waitFor()
      },
    },
  })
})

test('while the host is away what is known is shown, and nothing is offered that it would have to do', { skip }, async () => {
  const host = await platform.join('rack-1')
  await platform.client.call('instance.create', { query, body: { name: 'far', host: 'rack-1' } })
  await platform.client.call('instance.snapshot', { params: { instance: 'far' }, query, body: { name: 'kept' } })
  await host.kill()
  await page.goto(`${platform.url}/instances/far/snapshots`)
  await page.getByTestId('away').waitFor()
  await row('kept').waitFor()
  assert.equal(await page.getByTestId('take-snapshot').isDisabled(), true)
  await shoot(page, 'snapshots-away')
  assert.deepEqual(browser.errors, [])
})

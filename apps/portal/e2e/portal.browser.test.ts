/**
 * The portal in a real browser against a real platform whose guests are in memory: what a person does in the first ten minutes.
 * Screenshots go to `PORTAL_SCREENSHOTS` when it is set.
 */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Page } from 'playwright-core'
import { CHROMIUM, hasChromium, openBrowser, shoot, signIn, type TestBrowser } from './browser.ts'
import { ensureBuilt } from './built.ts'
import { faintTexts, namelessControls } from './legible.ts'
import { startPlatform, type TestPlatform } from './platform.ts'

const skip = hasChromium() ? false : `no Chromium at ${CHROMIUM}`
let platform: TestPlatform
let browser: TestBrowser
let page: Page

const row = (name: string) => page.locator(`[data-testid="row"][data-name="${name}"]`)
const state = (kind: string) => page.locator(`[data-testid="state"][data-state="${kind}"]`)

before(async () => {
  if (skip !== false) return
  await ensureBuilt()
  platform = await startPlatform({ driver: 'sim' })
  browser = await openBrowser({ origin: platform.url })
  ;({ page } = browser)
})
after(async () => {
  await browser?.[Symbol.asyncDispose]()
  await platform?.[Symbol.asyncDispose]()
})

test('a wrong password is refused in words, and the right one leads to the page first asked for', { skip }, async () => {
  await page.goto(`${platform.url}/hosts`)
  await page.getByTestId('sign-in').waitFor()
  await page.getByLabel('Password', { exact: true }).fill('not the password')
  await page.getByRole('button', { name: 'Sign in' }).click()
  assert.equal(await page.getByTestId('sign-in-error').innerText(), 'Account or password is wrong.')
  await shoot(page, 'sign-in-refused')
  await signIn(page, platform.password)
  await page.getByRole('heading', { name: 'Hosts' }).waitFor()
  await row('local').getByText('Connected').waitFor()
  assert.equal(new URL(page.url()).pathname, '/hosts')
})

test('an empty cloud invites to create, and three clicks make an instance that runs', { skip }, async () => {
  await page.getByRole('link', { name: 'Instances' }).click()
  await page.getByTestId('empty').waitFor()
  await shoot(page, 'instances-empty')
  await page.getByTestId('create').click()
  const name = await page.getByTestId('field-name').inputValue()
  assert.match(name, /^[a-z]+-[a-z]+$/)
  await page.getByTestId('create-go').click()
  await page.getByRole('heading', { name }).waitFor()
  await state('running').waitFor()
  await page.getByTestId('network').getByText('10.0.2.15').waitFor()
  await shoot(page, 'instance-overview')
  await platform.client.call('instance.destroy', { params: { instance: name } })
  await page.getByText(`There is no instance ${name}`).waitFor()
})

test('what the server refuses is said at its field', { skip }, async () => {
  await page.goto(`${platform.url}/instances?create=true`)
  await page.getByTestId('field-name').fill('Not A Name')
  await page.getByTestId('more').locator('summary').click()
  await page.getByTestId('field-memory').fill('1M')
  await page.getByTestId('create-go').click()
  const name = page.getByTestId('field-name')
  await page.getByText('got "Not A Name"').waitFor()
  assert.equal(await name.getAttribute('aria-invalid'), 'true')
  assert.equal(await page.getByTestId('field-memory').getAttribute('aria-invalid'), 'true')
  await shoot(page, 'create-refused')
  await name.fill('web-1')
  await page.getByTestId('field-memory').fill('128M')
  await page.getByTestId('add-forward').click()
  await page.getByTestId('field-labels').fill('team=core\ntier=web')
  await page.getByText('nothing lost').waitFor()
  await page.getByTestId('field-diskFull').selectOption('error')
  await page.getByText('may go read-only').waitFor()
  await page.getByTestId('field-diskFull').scrollIntoViewIfNeeded()
  await shoot(page, 'create-disk-full')
  const sent = page.waitForRequest((request) => request.method() === 'POST' && request.url().includes('/instances'))
  await page.getByTestId('create-go').click()
  assert.equal(((await sent).postDataJSON() as { diskFull?: string }).diskFull, 'error')
  await state('running').waitFor()
  assert.match(await page.getByTestId('facts').innerText(), /team=core/)
  assert.match(await page.getByTestId('resources').innerText(), /128 MiB/)
  await page.getByTestId('network').getByText('→ 22').waitFor()
})

test('a name that is taken is said at the name', { skip }, async () => {
  await page.goto(`${platform.url}/instances?create=true`)
  await page.getByTestId('field-name').fill('web-1')
  await page.getByTestId('create-go').click()
  await page.locator('[data-testid="field-name"][aria-invalid="true"]').waitFor()
  await page.keyboard.press('Escape')
  await page.getByTestId('create-form').waitFor({ state: 'detached' })
})

test('buttons follow the state, and what others do shows without a reload', { skip }, async () => {
  await page.goto(`${platform.url}/instances/web-1`)
  await page.getByTestId('verbs').click()
  await page.getByTestId('verb-pause').click()
  await state('paused').waitFor()
  await page.getByTestId('do-unpause').click()
  await state('running').waitFor()
  await platform.client.call('instance.shutdown', { params: { instance: 'web-1' } })
  await state('stopped').waitFor()
  await page.getByTestId('do-start').click()
  await state('running').waitFor()
  await page.getByRole('link', { name: 'Events' }).click()
  await page.getByTestId('event').filter({ hasText: 'running \u2192 paused' }).waitFor()
  await shoot(page, 'instance-events')
})

test('a guest without a screen says so once, and leads to its console', { skip }, async () => {
  await page.goto(`${platform.url}/instances/web-1`)
  await page.getByRole('link', { name: 'Screen' }).click()
  const screen = page.locator('[data-testid="screen"][data-status="refused"]')
  await screen.getByText('domains in memory have no screen').waitFor()
  await shoot(page, 'screen-none')
  await screen.getByRole('link', { name: 'Console' }).click()
  await page.locator('[data-testid="console"][data-status="open"]').waitFor()
})

test('what destroys asks for the name to be typed', { skip }, async () => {
  await platform.client.call('instance.create', { query: { wait: 20 }, body: { name: 'doomed' } })
  await page.goto(`${platform.url}/instances`)
  await row('doomed').getByTestId('row-menu').click()
  await page.getByTestId('verb-destroy').click()
  const go = page.getByTestId('confirm-go')
  assert.equal(await go.isDisabled(), true)
  await page.getByTestId('confirm-word').fill('doome')
  assert.equal(await go.isDisabled(), true)
  await page.getByTestId('confirm-word').fill('doomed')
  await shoot(page, 'confirm-destroy')
  await go.click()
  await row('doomed').waitFor({ state: 'detached' })
})

test("search, order, page and size are the server's, and the address holds them", { skip }, async () => {
  const names = Array.from({ length: 60 }, (_, index) => `many-${String(index).padStart(2, '0')}`)
  await Promise.all(names.map((name) => platform.client.call('instance.create', { query: { wait: 30 }, body: { name } })))
  await page.goto(`${platform.url}/instances`)
  await row('many-00').waitFor()
  assert.equal(await page.getByTestId('place').innerText(), '1–50 of 61')
  await shoot(page, 'instances-full')
  await page.getByTestId('next-page').click()
  await row('many-59').waitFor()
  assert.equal(await page.getByTestId('place').innerText(), '51–61 of 61')
  await page.reload()
  await row('many-59').waitFor()
  assert.equal(await page.getByTestId('place').innerText(), '51–61 of 61')
  await page.getByTestId('previous-page').click()
  await row('many-00').waitFor()
  await page.getByTestId('sort-name').click()
  await row('web-1').waitFor()
  assert.equal(await page.getByTestId('row').first().getAttribute('data-name'), 'web-1')
  await page.getByTestId('search').fill('many-3')
  await row('many-39').waitFor()
  await row('web-1').waitFor({ state: 'detached' })
  assert.equal(await page.getByTestId('place').innerText(), '1–10 of 10')
  const { searchParams } = new URL(page.url())
  assert.equal(searchParams.get('search'), 'many-3')
  assert.equal(searchParams.get('order'), 'desc')
  await page.getByTestId('state-filter').selectOption('stopped')
  await page.getByText('Nothing matches').waitFor()
  await page.goBack()
})

test('verbs reach all chosen rows, and the list follows by itself', { skip }, async () => {
  await page.goto(`${platform.url}/instances?search=many-1`)
  await row('many-10').waitFor()
  await page.getByLabel('Choose all on this page').check()
  await page.getByTestId('bulk-pause').waitFor()
  await shoot(page, 'instances-chosen')
  await page.getByTestId('bulk-pause').click()
  await page.waitForFunction(() => document.querySelectorAll('[data-testid="state"][data-state="paused"]').length === 10)
  assert.equal(await page.getByTestId('bulk').count(), 0)
})

test('operations tell how they ended', { skip }, async () => {
  await page.getByRole('link', { name: 'Operations' }).click()
  await row('instance.pause many-10').first().getByText('Done').waitFor()
  await shoot(page, 'operations')
})

test("a token's secret is shown once, works, and works no more when revoked", { skip }, async () => {
  await page.goto(`${platform.url}/settings/tokens`)
  await page.getByTestId('make-token').click()
  await page.getByLabel('Name').fill('ci')
  await page.getByRole('button', { name: 'Make it' }).click()
  const secret = await page.getByTestId('secret').innerText()
  await shoot(page, 'token-secret')
  const answer = async () =>
    (await fetch(`${platform.url}/api/v1/instances`, { headers: { authorization: `Bearer ${secret}` } })).status
  assert.equal(await answer(), 200)
  await page.getByRole('button', { name: 'I have copied it' }).click()
  await row('ci').getByRole('button', { name: 'Revoke' }).click()
  await page.getByTestId('confirm-word').fill('ci')
  await page.getByTestId('confirm-go').click()
  await row('ci').waitFor({ state: 'detached' })
  assert.equal(await answer(), 401)
})

test('an account is added, and its password set anew when it was forgotten', { skip }, async () => {
  await page.goto(`${platform.url}/settings/accounts`)
  await page.getByTestId('make-account').click()
  const form = page.getByTestId('account-form')
  await form.getByLabel('Name').fill('ada')
  await form.getByLabel('First password', { exact: true }).fill('too short')
  await form.getByRole('button', { name: 'Add it' }).click()
  await form.getByText('got 9 characters').waitFor()
  await form.getByLabel('First password', { exact: true }).fill('long enough now')
  await form.getByRole('button', { name: 'Add it' }).click()
  await page.getByRole('button', { name: 'Set the password of ada' }).click()
  await page.getByTestId('set-password-form').getByLabel('New password', { exact: true }).fill('another long one')
  await shoot(page, 'set-password')
  await page.getByRole('button', { name: 'Set it' }).click()
  await page.getByTestId('set-password-form').waitFor({ state: 'detached' })
  const body = { account: 'ada', password: 'another long one' }
  const answer = await fetch(`${platform.url}/api/v1/session`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  assert.equal(answer.ok, true)
  assert.equal(await row('local').getByRole('button').count(), 0, "the machine's own account is not offered for removal")
})

test('the window says which page and which part of it is shown, and Back goes where one was', { skip }, async () => {
  const title = (text: string) => page.waitForFunction((want) => document.title === want, `${text} \u00b7 Typevisor`)
  await page.goto(`${platform.url}/instances/web-1/events`)
  await title('Events \u00b7 web-1')
  await page.getByRole('link', { name: 'Console' }).click()
  await title('Console \u00b7 web-1')
  await page.goBack()
  await title('Events \u00b7 web-1')
  await page.goto(`${platform.url}/settings/audit`)
  await title('Audit \u00b7 Settings')
  await page.goto(`${platform.url}/operations?show=stuck`)
  await page.getByText('Nothing is stuck').waitFor()
  await page.getByRole('link', { name: 'Show all' }).click()
  await page.getByTestId('row').first().waitFor()
  await page.goBack()
  await page.getByText('Nothing is stuck').waitFor()
})

test('an address that names nothing says so, with the way on beside it', { skip }, async () => {
  await page.goto(`${platform.url}/nowhere/at/all`)
  await page.getByText('There is nothing here').waitFor()
  await page.getByRole('link', { name: 'Hosts' }).click()
  await page.getByRole('heading', { name: 'Hosts' }).waitFor()
})

test('the keyboard is enough to find and open an instance', { skip }, async () => {
  await page.goto(`${platform.url}/instances?search=web-1`)
  await row('web-1').waitFor()
  await row('many-00').waitFor({ state: 'detached' })
  await page.keyboard.press('Tab')
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Skip to the content')
  await page.keyboard.press('Enter')
  for (let press = 0; press < 20; press += 1) {
    await page.keyboard.press('Tab')
    if ((await page.evaluate(() => document.activeElement?.textContent)) === 'web-1') break
  }
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'web-1' }).waitFor()
  assert.equal(
    await page.evaluate(() => document.activeElement?.textContent),
    'web-1',
    'the heading of the new page has the focus',
  )
})

test('a session that has ended leads to sign-in and back', { skip }, async () => {
  await page.goto(`${platform.url}/instances/web-1/events`)
  await page.getByTestId('events').waitFor()
  await browser.context.clearCookies()
  await page.getByRole('link', { name: 'Images' }).click()
  await page.getByTestId('sign-in').waitFor()
  await signIn(page, platform.password)
  await page.getByRole('heading', { name: 'Images' }).waitFor()
})

test('pages fit a phone and can be read, in the dark as in the light', { skip }, async () => {
  for (const scheme of ['light', 'dark'] as const) {
    await using phone = await openBrowser({ origin: platform.url, width: 390, height: 844, scheme })
    await phone.page.goto(platform.url)
    await signIn(phone.page, platform.password)
    await phone.page.getByTestId('row').first().waitFor()
    assert.equal(await phone.page.evaluate(() => document.documentElement.dataset['mantineColorScheme']), scheme)
    for (const at of [
      '/instances',
      '/instances/web-1',
      '/instances/web-1/console',
      '/instances/web-1/events',
      '/operations',
      '/images',
      '/hosts',
      '/hosts/local',
      '/settings',
      '/settings/tokens',
      '/settings/audit',
      '/instances?create=true',
    ]) {
      await phone.page.goto(`${platform.url}${at}`)
      await phone.page.waitForLoadState('load')
      await phone.page.getByRole('heading').first().waitFor()
      await phone.page.getByTestId('loading').first().waitFor({ state: 'detached' })
      await shoot(phone.page, `phone-${scheme}${at.replaceAll(/[^a-z0-9]/g, '-')}`)
      const over = await phone.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
      assert.equal(over, 0, `${at} is ${over} px wider than the screen`)
      assert.deepEqual(await faintTexts(phone.page), [], `${at}, ${scheme}: text too faint`)
      assert.deepEqual(await namelessControls(phone.page), [], `${at}: controls without a name`)
    }
    await phone.page.goto(`${platform.url}/instances`)
    await phone.page.getByTestId('menu').click()
    await phone.page.getByRole('link', { name: 'Hosts' }).waitFor()
    await phone.page.keyboard.press('Escape')
    await phone.page.getByRole('link', { name: 'Hosts' }).waitFor({ state: 'hidden' })
    assert.deepEqual(phone.errors, [])
  }
})

test('a lost connection is said, and gone again when the platform is back', { skip }, async () => {
  await page.goto(`${platform.url}/hosts`)
  await row('local').waitFor()
  await platform.kill()
  await page.getByTestId('connection-lost').waitFor()
  await shoot(page, 'connection-lost')
  await page.getByRole('link', { name: 'Images' }).click()
  await page.getByTestId('failure').waitFor()
  await shoot(page, 'failure')
  await platform.start()
  await page.getByTestId('connection-lost').waitFor({ state: 'detached', timeout: 30_000 })
  await row('micro').waitFor()
})

test('a page that is opened while the platform is away comes when it is back', { skip, timeout: 90_000 }, async () => {
  // A browser that has never seen the page: its code can only come from the platform.
  await using fresh = await openBrowser({ origin: platform.url })
  await fresh.page.goto(platform.url)
  await signIn(fresh.page, platform.password)
  await fresh.page.getByTestId('row').first().waitFor()
  await platform.kill()
  await fresh.page.getByTestId('connection-lost').waitFor()
  await fresh.page.getByRole('link', { name: 'Hosts' }).click()
  await fresh.page.getByTestId('loading').waitFor()
  await fresh.page.getByTestId('connection-lost').waitFor()
  await shoot(fresh.page, 'page-away')
  await platform.start()
  await fresh.page.getByRole('heading', { name: 'Hosts' }).waitFor({ timeout: 30_000 })
})

test('nothing was asked of another origin, and the content policy refused nothing', { skip }, () => {
  assert.deepEqual(browser.foreign, [])
  assert.deepEqual(browser.errors, [])
})

/** What becomes of an instance after a crash or with its host, its core dump, and its name: changed by a person and by another. */
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

const query = { wait: 20 }
const card = () => page.getByTestId('recovery')
const field = (name: string) => page.getByTestId(`field-${name}`)
const send = (name: string) => page.getByRole('button', { name, exact: true }).click()

before(async () => {
  if (skip !== false) return
  portal = await openPortal({}, ({ client }) => client.call('instance.create', { query, body: { name: 'taken', start: false } }))
  ;({ platform, browser, page } = portal)
})
after(() => portal?.[Symbol.asyncDispose]())

test('the card says what becomes of it; a change sends what is another, and shows', { skip }, async () => {
  await card().getByText('It stays as it is').waitFor()
  await card().getByText('Not started again').waitFor()
  await page.getByTestId('change-recovery').click()
  await field('onCrash').selectOption('dump-reboot')
  await field('autostart').check()
  await field('autostartOrder').fill('first')
  await send('Change it')
  await page.locator('[data-testid="field-autostartOrder"][aria-invalid="true"]').waitFor()
  await shoot(page, 'recovery-refused')
  await field('autostartOrder').fill('10')
  const sent = page.waitForRequest((request) => request.method() === 'PATCH')
  await send('Change it')
  assert.deepEqual((await sent).postDataJSON(), { onCrash: 'dump-reboot', autostart: true, autostartOrder: 10 })
  await page.getByTestId('recovery-form').waitFor({ state: 'detached' })
  await card().getByText('Core dump, then it is started again').waitFor()
  await card().getByText('order 10').waitFor()
  await platform.client.call('instance.set', {
    params: { instance: 'web-1' },
    query,
    body: { autostart: false, onCrash: 'poweroff' },
  })
  await card().getByText('It is powered off').waitFor()
  await card().getByText('Not started again').waitFor()
})

test('a core dump is asked for, and the card says where it is on the host', { skip }, async () => {
  await page.getByTestId('core-dump').getByText('None').waitFor()
  await page.getByTestId('dump').click()
  await page.getByTestId('notices').getByText('Dump web-1 is done').waitFor()
  const { dump } = await platform.client.call('instance.get', { params: { instance: 'web-1' } })
  assert.ok(dump)
  await page.getByTestId('core-dump').getByText(dump.path).waitFor()
  await shoot(page, 'recovery-dump')
  await platform.client.call('instance.poweroff', { params: { instance: 'web-1' }, query })
  await page.locator('[data-testid="state"][data-state="stopped"]').waitFor()
  assert.equal(await page.getByTestId('dump').isDisabled(), true)
  await page.getByTestId('core-dump').getByText(dump.path).waitFor()
  await platform.client.call('instance.start', { params: { instance: 'web-1' }, query })
})

test('a name that is taken is refused at its field; with another one the page goes on, on the same tab', { skip }, async () => {
  await page.getByRole('link', { name: 'Events' }).click()
  await page.getByTestId('verbs').click()
  await page.getByTestId('verb-rename').click()
  await page.locator('[data-testid="field-name"]:focus').waitFor()
  assert.equal(await field('name').inputValue(), 'web-1')
  await field('name').fill('taken')
  await page.keyboard.press('Enter')
  await page.locator('[data-testid="field-name"][aria-invalid="true"]').waitFor()
  await shoot(page, 'rename-refused')
  await field('name').fill('shop-1')
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'shop-1' }).waitFor()
  await page.waitForURL(`${platform.url}/instances/shop-1/events`)
  assert.match(await page.title(), /Events · shop-1/)
  await page.getByTestId('rename-form').waitFor({ state: 'detached' })
})

test('a name that another gives is followed, and a viewer of nothing is not led astray', { skip }, async () => {
  await platform.client.call('instance.rename', { params: { instance: 'shop-1' }, query, body: { name: 'shop-2' } })
  await page.getByRole('heading', { name: 'shop-2' }).waitFor()
  assert.equal(new URL(page.url()).pathname, '/instances/shop-2/events')
  await page.goto(`${platform.url}/instances/shop-1`)
  await page.getByText('There is no instance shop-1').waitFor()
})

test('the cards and the forms fit a phone and can be read, in the dark as in the light', { skip, timeout: 120_000 }, async () => {
  const forms = [
    ['recovery-form', async (other: Page) => other.getByTestId('change-recovery').click()],
    [
      'rename-form',
      async (other: Page) => {
        await other.getByTestId('verbs').click()
        await other.getByTestId('verb-rename').click()
      },
    ],
  ] as const
  for (const [form, ask] of forms)
    await assertLegible(platform, {
      path: '/instances/shop-2',
      ready: 'core-dump',
      picture: 'recovery',
      opened: {
        what: 'form',
        picture: form,
        open: async (other) => {
          await ask(other)
          await other.getByTestId(form).waitFor()
        },
      },
    })
  // What was refused above is in the browser's own log.
  assert.deepEqual(
    browser.errors.filter((error) => !/40[049]/.test(error)),
    [],
  )
})

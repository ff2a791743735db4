/** Devices in the portal: attached, grown, loaded and detached by a person, and by another whom the page must follow. */
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
const asks = async (device: string, act: string): Promise<void> => {
  await row(device).getByTestId('row-menu').click()
  await page.getByTestId(`device-${act}`).click()
}
const query = { wait: 20 }
const params = { instance: 'web-1' }

before(async () => {
  if (skip !== false) return
  portal = await openPortal()
  ;({ platform, browser, page } = portal)
})
after(() => portal?.[Symbol.asyncDispose]())

test('a disk is attached, what is wrong is said at its field, and it grows', { skip }, async () => {
  await page.getByRole('link', { name: 'Devices' }).click()
  await row('root').waitFor()
  await page.getByTestId('attach').click()
  await page.getByTestId('field-device').fill('Data!')
  await page.getByRole('button', { name: 'Attach it' }).click()
  await page.locator('[data-testid="field-device"][aria-invalid="true"]').waitFor()
  await page.getByTestId('field-device').fill('data')
  await page.getByTestId('field-size').fill('much')
  await page.getByRole('button', { name: 'Attach it' }).click()
  await page.locator('[data-testid="field-size"][aria-invalid="true"]').waitFor()
  await page.getByTestId('field-size').fill('512M')
  await shoot(page, 'device-attach')
  await page.getByRole('button', { name: 'Attach it' }).click()
  await row('data').getByText('512 MiB').waitFor()
  await asks('data', 'resize')
  await page.getByTestId('field-size').fill('2 GiB')
  await page.getByRole('button', { name: 'Grow it' }).click()
  await row('data').getByText('2 GiB').waitFor()
})

test('a network card brings ports of the host, and what is no port is said at them', { skip }, async () => {
  await page.getByTestId('attach').click()
  await page.getByTestId('field-kind').selectOption('nic')
  await page.getByTestId('field-device').fill('dmz')
  await page.getByTestId('add-forward').click()
  const port = page.getByLabel('Port of the guest', { exact: true })
  await port.fill('web')
  await page.getByRole('button', { name: 'Attach it' }).click()
  await page.getByTestId('attach-form').getByText('want 1 to 65535').waitFor()
  await port.fill('8080')
  await shoot(page, 'device-attach-nic')
  await page.getByRole('button', { name: 'Attach it' }).click()
  await row('dmz').getByText('to 8080').waitFor()
})

test('a CD drive takes what the host has, and gives it back', { skip }, async () => {
  await page.getByTestId('attach').click()
  await page.getByTestId('field-kind').selectOption('cd')
  await page.getByRole('button', { name: 'Attach it' }).click()
  await row('cd').getByText('empty').waitFor()
  await asks('cd', 'insert')
  await page.getByTestId('field-medium').selectOption('sim.iso')
  await page.getByRole('button', { name: 'Insert it' }).click()
  await row('cd').getByText('sim.iso').waitFor()
  await asks('cd', 'eject')
  await page.getByRole('button', { name: 'Eject it' }).click()
  await row('cd').getByText('empty').waitFor()
})

test('what is detached is kept unless it is to go, and what another attaches shows without a reload', { skip }, async () => {
  await asks('data', 'detach')
  await shoot(page, 'device-detach')
  await page.getByRole('button', { name: 'Detach it' }).click()
  await row('data').getByText('its volume is kept').waitFor()
  await asks('data', 'detach')
  await page.getByRole('button', { name: 'Delete it' }).click()
  await row('data').waitFor({ state: 'detached' })
  await platform.client.call('instance.attach', { params, query, body: { kind: 'usb', device: 'pointer', model: 'tablet' } })
  await row('pointer').getByText('tablet').waitFor()
})

test('a device that a paused guest does not let go of is shown so, and taken by force', { skip }, async () => {
  await platform.client.call('instance.attach', { params, query, body: { kind: 'nic', device: 'lan' } })
  await platform.client.call('instance.pause', { params, query })
  await platform.client.call('instance.detach', { params: { ...params, device: 'lan' }, query: { ...query, timeoutMs: 50 } })
  await row('lan').getByText('was asked to let go').waitFor()
  await asks('lan', 'detach')
  assert.equal(await page.getByTestId('field-force').isChecked(), true)
  await page.getByRole('button', { name: 'Detach it' }).click()
  await row('lan').waitFor({ state: 'detached' })
  await platform.client.call('instance.unpause', { params, query })
})

test('the devices fit a phone and can be read, in the dark as in the light', { skip }, async () => {
  await assertLegible(platform, {
    path: '/instances/web-1/devices',
    ready: 'row',
    picture: 'devices',
    opened: {
      what: 'form',
      picture: 'device-attach',
      open: async (other) => {
        await other.getByTestId('attach').click()
        await other.getByTestId('attach-form').waitFor()
      },
    },
  })
  assert.deepEqual(browser.errors, [])
})

/** Resources in the portal: what an instance has, changed by a person and by another, and what is refused said at its field. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Page } from 'playwright-core'
import { mib } from '@typevisor/base'
import { CHROMIUM, hasChromium, shoot, type TestBrowser } from './browser.ts'
import type { TestPlatform } from './platform.ts'
import { assertLegible, openPortal, type OpenPortal } from './portal.ts'

const skip = hasChromium() ? false : `no Chromium at ${CHROMIUM}`
let portal: OpenPortal | undefined
let platform: TestPlatform
let browser: TestBrowser
let page: Page

const query = { wait: 20 }
const params = { instance: 'web-1' }
const card = () => page.getByTestId('resources')
const field = (name: string) => page.getByTestId(`field-${name}`)
const change = () => page.getByTestId('change-resources')

before(async () => {
  if (skip !== false) return
  portal = await openPortal({ memoryBytes: mib(256), vcpuCountMax: 4, memoryBytesMax: mib(512) })
  ;({ platform, browser, page } = portal)
})
after(() => portal?.[Symbol.asyncDispose]())

test('the card says what it has and how far it may grow; a change shows when it is done', { skip }, async () => {
  await card().getByText('1 vCPU of at most 4').waitFor()
  await card().getByText('256 MiB of at most 512 MiB').waitFor()
  await change().click()
  await field('vcpuCount').fill('3')
  await field('memory').fill('384M')
  await field('cpuWeight').fill('200')
  await field('affinityHard').fill('0-1 3')
  await shoot(page, 'resources-form')
  const sent = page.waitForRequest((request) => request.method() === 'PATCH')
  await page.getByRole('button', { name: 'Change it' }).click()
  assert.deepEqual((await sent).postDataJSON(), {
    vcpuCount: 3,
    memoryBytes: mib(384),
    cpuWeight: 200,
    affinityHard: ['0-1', '3'],
  })
  await card().getByText('3 vCPU of at most 4').waitFor()
  await card().getByText('weight 200').waitFor()
  await card().getByText('0-1 3').waitFor()
  await page.getByTestId('parts').getByText('vCPU 2').waitFor()
  await shoot(page, 'resources')
})

test('what is refused is said at its field, and what is emptied is as at its creation', { skip }, async () => {
  await change().click()
  await field('vcpuCount').fill('9')
  await page.getByRole('button', { name: 'Change it' }).click()
  await page.locator('[data-testid="field-vcpuCount"][aria-invalid="true"]').waitFor()
  await shoot(page, 'resources-refused')
  await field('vcpuCount').fill('3')
  await field('cpuWeight').fill('')
  await field('affinityHard').fill('')
  await page.getByRole('button', { name: 'Change it' }).click()
  await page.getByTestId('resources-form').waitFor({ state: 'detached' })
  await card().getByText('weight 100').waitFor()
  const { settings } = await platform.client.call('instance.get', { params })
  assert.deepEqual([settings.cpuWeight, settings.affinityHard], [null, null])
})

test(
  'a disk is limited and let go in the words that it is shown by; what is no limit is said at its field',
  { skip },
  async () => {
    await change().click()
    await field('limit-root').fill('fast')
    await page.getByRole('button', { name: 'Change it' }).click()
    await page.locator('[data-testid="field-limit-root"][aria-invalid="true"]').waitFor()
    await page.getByTestId('resources-form').getByText('root: "fast"').waitFor()
    await field('limit-root').fill('20M/s, 300 ops')
    await page.getByRole('button', { name: 'Change it' }).click()
    await page.getByTestId('resources-form').waitFor({ state: 'detached' })
    await card().getByText('at most 20 MiB/s, 300 operations/s').waitFor()
    const limits = async () => (await platform.client.call('instance.get', { params })).settings.diskLimits
    assert.deepEqual(await limits(), [{ disk: 'root', bytesPerSecond: mib(20), operationsPerSecond: 300 }])
    await change().click()
    await page.waitForFunction(
      () => document.querySelector<HTMLInputElement>('[data-testid="field-limit-root"]')?.value === '20 MiB/s, 300 operations/s',
    )
    await shoot(page, 'resources-limits')
    await field('limit-root').fill('')
    await page.getByRole('button', { name: 'Change it' }).click()
    await card().getByText('at most 20 MiB/s').waitFor({ state: 'detached' })
    assert.deepEqual(await limits(), [])
  },
)

test('what another sets shows without a reload; what the guest has not taken up yet is said', { skip }, async () => {
  const diskLimits = [{ disk: 'root', bytesPerSecond: mib(10), operationsPerSecond: 200 }]
  await platform.client.call('instance.set', { params, query, body: { diskLimits, cpuCapPercent: 50 } })
  await card().getByText('at most 10 MiB/s, 200 operations/s').waitFor()
  await card().getByText('at most 50 %').waitFor()
  await platform.client.call('instance.pause', { params, query })
  await platform.client.call('instance.set', { params, query, body: { memoryBytes: mib(512) } })
  await page.getByTestId('settings-note').getByText('it is paused').waitFor()
  await shoot(page, 'resources-note')
  await platform.client.call('instance.unpause', { params, query })
  await page.getByTestId('settings-note').waitFor({ state: 'detached' })
  await platform.client.call('instance.save', { params, query })
  await page.locator('[data-testid="state"][data-state="saved"]').waitFor()
  assert.equal(await change().isDisabled(), true)
})

test('the card and its form fit a phone and can be read, in the dark as in the light', { skip }, async () => {
  await platform.client.call('instance.restore', { params, query })
  await assertLegible(platform, {
    path: '/instances/web-1',
    ready: 'resources',
    picture: 'resources',
    opened: {
      what: 'form',
      picture: 'resources-form',
      open: async (other) => {
        await other.getByTestId('change-resources').click()
        await other.getByTestId('resources-form').waitFor()
      },
    },
  })
  // What was refused above is in the browser's own log.
  assert.deepEqual(
    browser.errors.filter((error) => !/400/.test(error)),
    [],
  )
})

/** What goes to a guest from its page: files, passwords, keys; and what is said where nobody in it answers, or it has no screen. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { after, before, test } from 'node:test'
import type { Page } from 'playwright-core'
import { CHROMIUM, hasChromium, shoot, type TestBrowser } from './browser.ts'
import { faintTexts, namelessControls } from './legible.ts'
import type { TestPlatform } from './platform.ts'
import { assertLegible, openPortal, type OpenPortal } from './portal.ts'

const skip = hasChromium() ? false : `no Chromium at ${CHROMIUM}`
let portal: OpenPortal | undefined
let platform: TestPlatform
let browser: TestBrowser
let page: Page

const query = { wait: 20 }
const params = { instance: 'web-1' }
const field = (name: string) => page.getByTestId(`field-${name}`)
const button = (name: string) => page.getByRole('button', { name, exact: true })
const content = Buffer.from(Array.from({ length: 2_500_000 }, (_, index) => (index * 7) % 253))

before(async () => {
  if (skip !== false) return
  portal = await openPortal()
  ;({ platform, browser, page } = portal)
})
after(() => portal?.[Symbol.asyncDispose]())

test('a file of this computer is put whole, read again and downloaded as it was', { skip }, async () => {
  await page.getByRole('link', { name: 'Guest' }).click()
  assert.equal(await button('Put it').isDisabled(), true)
  await field('file').setInputFiles({ name: 'data.bin', mimeType: 'application/octet-stream', buffer: content })
  assert.equal(await field('put-path').inputValue(), '/tmp/data.bin')
  await button('Put it').click()
  await page.getByTestId('file-put').getByText('2.4 MiB').waitFor()
  await field('read-path').fill('/tmp/data.bin')
  await page.keyboard.press('Enter')
  await page.getByTestId('file-read').getByText('2.4 MiB').waitFor()
  assert.equal(await page.getByTestId('file-read').locator('pre').count(), 0, 'bytes are not shown as text')
  const downloading = page.waitForEvent('download')
  await page.getByTestId('download').click()
  const downloaded = await downloading
  assert.equal(downloaded.suggestedFilename(), 'data.bin')
  assert.ok((await readFile(await downloaded.path())).equals(content))
})

test('a text is shown; a file that there is not is refused in the words of the guest', { skip }, async () => {
  await field('file').setInputFiles({ name: 'motd', mimeType: 'text/plain', buffer: Buffer.from('Gr\u00fc\u00dfe\n') })
  await field('put-path').fill('/etc/motd')
  await button('Put it').click()
  await page.getByTestId('file-put').getByText('/etc/motd').waitFor()
  await field('read-path').fill('/etc/motd')
  await button('Read it').click()
  await page.getByTestId('file-read').locator('pre').getByText('Gr\u00fc\u00dfe').waitFor()
  await shoot(page, 'guest-read')
  await field('read-path').fill('/no/such')
  await button('Read it').click()
  await page.getByTestId('read-file').getByText('the guest has no such file').waitFor()
  await field('read-path').fill('motd')
  await button('Read it').click()
  await page.locator('[data-testid="field-read-path"][aria-invalid="true"]').waitFor()
  await shoot(page, 'guest-refused')
  assert.deepEqual([await faintTexts(page), await namelessControls(page)], [[], []])
})

test('a password is set of an account that there is, and refused of one that there is not', { skip }, async () => {
  await field('user').fill('nobody-here')
  await page.getByLabel('New password', { exact: true }).fill('a long password')
  await button('Set it').click()
  await page.getByTestId('set-password').getByText('no such account').waitFor()
  await field('user').fill('root')
  const sent = page.waitForRequest((request) => request.method() === 'POST')
  await button('Set it').click()
  assert.deepEqual((await sent).postDataJSON(), { user: 'root', password: 'a long password' })
  await page.getByTestId('password-set').waitFor()
  assert.equal(await page.getByLabel('New password', { exact: true }).inputValue(), '', 'it is not left on the page')
})

test('the page and what it says of a guest that is off fit a phone and can be read', { skip, timeout: 120_000 }, async () => {
  await assertLegible(platform, {
    path: '/instances/web-1/guest',
    ready: 'set-password',
    picture: 'guest',
    opened: {
      what: 'form',
      picture: 'guest-off',
      open: async (other) => {
        await platform.client.call('instance.pause', { params, query })
        await other.getByTestId('agent-notice').getByText('It is paused').waitFor()
        for (const name of ['Read it', 'Put it', 'Set it', 'Run'])
          assert.equal(await other.getByRole('button', { name, exact: true }).isDisabled(), true, name)
        await platform.client.call('instance.unpause', { params, query })
      },
    },
  })
})

test('keys go to a guest whose screen is not to be had, and a picture is refused with the reason', { skip }, async () => {
  await page.getByRole('link', { name: 'Screen' }).click()
  await page.locator('[data-testid="screen"][data-status="refused"]').waitFor()
  const log = async () => {
    const { contentBase64 } = await platform.client.call('instance.log', { params, query: {} })
    return Buffer.from(contentBase64, 'base64').toString()
  }
  const until = async (words: string) => {
    const limit = Date.now() + 10_000
    while (!(await log()).includes(words)) {
      assert.ok(Date.now() < limit, await log())
      await page.waitForTimeout(50)
    }
  }
  await page.getByTestId('keys').click()
  await shoot(page, 'screen-keys')
  await page.getByTestId('keys-ctrl-alt-f2').click()
  await until('sim: key ctrl-alt-f2')
  await page.getByRole('button', { name: /^Full screen/ }).click()
  await page.waitForFunction(() => document.fullscreenElement !== null)
  await page.getByTestId('keys').press('Enter')
  await page.getByTestId('keys-alt-tab').press('Enter')
  await until('sim: key alt-tab')
  await page.getByTestId('keys').click()
  await page.getByTestId('keys-other').click()
  await page.waitForFunction(() => document.fullscreenElement === null)
  await field('keys').fill('ctrl-alt-nothing')
  await button('Send them').click()
  await page.locator('[data-testid="field-keys"][aria-invalid="true"]').waitFor()
  await shoot(page, 'screen-keys-refused')
  await field('keys').fill('esc  shift-tab')
  await field('text').fill('Hi\n')
  await button('Send them').click()
  await page.getByTestId('keys-form').waitFor({ state: 'detached' })
  for (const chord of ['esc', 'shift-tab', 'shift-h', 'i', 'ret']) await until(`sim: key ${chord}\r\n`)
  await page.getByTestId('picture').click()
  await page.getByTestId('notices').getByText('domains in memory have no screen').waitFor()
  await shoot(page, 'picture-refused')
})

test(
  'the keys beside the screen fit a phone and can be read, in the dark as in the light',
  { skip, timeout: 120_000 },
  async () => {
    await assertLegible(platform, {
      path: '/instances/web-1/screen',
      ready: 'keys',
      picture: 'screen-bar',
      opened: {
        what: 'form',
        picture: 'screen-keys-form',
        open: async (other) => {
          await other.getByTestId('keys').click()
          await other.getByTestId('keys-other').click()
          await other.getByTestId('keys-form').waitFor()
        },
      },
    })
    // What was refused above is in the browser's own log.
    assert.deepEqual(
      browser.errors.filter((error) => !/[45]\d\d/.test(error)),
      [],
    )
  },
)

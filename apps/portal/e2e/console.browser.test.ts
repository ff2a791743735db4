/**
 * The console against a real guest: QEMU, Debian's kernel, a shell on the serial line. What a person types is answered, and neither a
 * reload nor the sudden death of the platform loses or doubles a byte.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { open, readFile } from 'node:fs/promises'
import { after, before, test } from 'node:test'
import type { Page } from 'playwright-core'
import { CHROMIUM, hasChromium, openBrowser, shoot, signIn, type TestBrowser } from './browser.ts'
import { ensureBuilt } from './built.ts'
import { startPlatform, type TestPlatform } from './platform.ts'

const QEMU = '/usr/bin/qemu-system-x86_64'
const skip = !hasChromium() ? `no Chromium at ${CHROMIUM}` : !existsSync(QEMU) ? `no QEMU at ${QEMU}` : false
const BOOT_MS = 60_000
const UEFI = ['/usr/share/qemu/firmware', '/usr/bin/swtpm']
const missing = UEFI.find((path) => !existsSync(path))
const skipUefi = skip !== false ? skip : missing === undefined ? false : `no ${missing}`
let platform: TestPlatform
let browser: TestBrowser
let page: Page

/** All that the terminal holds, scrollback too, by the page's own copy button. */
async function wholeText(): Promise<string> {
  await page.getByRole('button', { name: /^Copy the selection/ }).click()
  return page.evaluate(() => navigator.clipboard.readText())
}

async function untilText(pattern: RegExp, limitMs = 20_000): Promise<string> {
  const limit = Date.now() + limitMs
  for (;;) {
    const text = await wholeText()
    if (pattern.test(text)) return text
    if (Date.now() > limit) assert.fail(`the console never showed ${pattern}; it shows:\n${text}`)
    await page.waitForTimeout(300)
  }
}

const connected = (): Promise<void> => page.locator('[data-testid="console"][data-status="open"]').waitFor({ timeout: 40_000 })
async function type(line: string): Promise<void> {
  await page.getByTestId('console-screen').click()
  await page.keyboard.type(line)
  await page.keyboard.press('Enter')
}

before(
  async () => {
    if (skip !== false) return
    await ensureBuilt()
    platform = await startPlatform({ driver: 'qemu' })
    browser = await openBrowser({ origin: platform.url })
    ;({ page } = browser)
  },
  { timeout: 180_000 },
)
after(async () => {
  await browser?.[Symbol.asyncDispose]()
  await platform?.[Symbol.asyncDispose]()
})

test('the starter image is built from the portal, and says how far it is', { skip, timeout: 240_000 }, async () => {
  await page.goto(`${platform.url}/images`)
  await signIn(page, platform.password)
  await page.getByTestId('build').click()
  await page.getByTestId('progress').waitFor()
  await shoot(page, 'image-building')
  await page.locator('[data-testid="row"][data-name="micro"]').waitFor({ timeout: 200_000 })
})

test('a guest made in three clicks answers on its console', { skip, timeout: 120_000 }, async () => {
  await page.getByRole('link', { name: 'Instances' }).click()
  await page.getByTestId('create').click()
  await page.getByTestId('field-name').fill('hello')
  await page.getByTestId('create-go').click()
  await page.locator('[data-testid="state"][data-state="running"]').waitFor({ timeout: BOOT_MS })
  await page.getByRole('link', { name: 'Console' }).click()
  await connected()
  await untilText(/[#$] *$/, BOOT_MS)
  await type('echo $((6*7))-is-the-answer')
  await untilText(/^42-is-the-answer$/m)
  // Without the words of the button that the pointer is on.
  await page.mouse.move(700, 700)
  await page.getByRole('tooltip').waitFor({ state: 'hidden' })
  await shoot(page, 'console')
})

test('a reload shows what the guest has said before, once', { skip, timeout: 60_000 }, async () => {
  await page.reload()
  await connected()
  const text = await untilText(/^42-is-the-answer$/m)
  assert.equal(text.match(/^42-is-the-answer$/gm)?.length, 1)
})

test(
  'the platform dies and comes back while the guest talks: no line is lost, none comes twice',
  { skip, timeout: 180_000 },
  async () => {
    await type('i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo "line $i."; sleep 0.06; done; echo all "said"')
    await untilText(/^line 10\.$/m)
    await platform.kill()
    await page.locator('[data-testid="console"][data-status="waiting"]').waitFor()
    await page.getByTestId('connection-lost').waitFor()
    await shoot(page, 'console-waiting')
    await platform.start()
    await connected()
    const text = await untilText(/^all said$/m, 60_000)
    const lines = [...text.matchAll(/^line (\d+)\.$/gm)].map((match) => Number(match[1]))
    assert.deepEqual(
      lines,
      Array.from({ length: 150 }, (_, index) => index + 1),
    )
  },
)

test('a command runs in the guest through its agent', { skip, timeout: 60_000 }, async () => {
  await page.getByRole('link', { name: 'Guest' }).click()
  await page.getByTestId('command').fill("sh -c 'echo from $(uname -s)'")
  await page.getByRole('button', { name: 'Run' }).click()
  await page.getByTestId('command-output').getByText('from Linux').waitFor()
  await shoot(page, 'command')
})

async function inGuest(instance: string, ...argv: string[]): Promise<string> {
  const { stdoutBase64 } = await platform.client.call('instance.exec', { params: { instance }, body: { argv } })
  return Buffer.from(stdoutBase64, 'base64').toString()
}

test('files go into the guest and come back, and a password of it is set', { skip, timeout: 120_000 }, async () => {
  const content = Buffer.from(Array.from({ length: 1_500_000 }, (_, index) => (index * 31) % 251))
  await page.getByTestId('field-file').setInputFiles({ name: 'data.bin', mimeType: 'application/octet-stream', buffer: content })
  await page.getByRole('button', { name: 'Put it' }).click()
  await page.getByTestId('file-put').waitFor({ timeout: 60_000 })
  const digest = createHash('sha256').update(content).digest('hex')
  assert.match(await inGuest('hello', 'sha256sum', '/tmp/data.bin'), new RegExp(`^${digest}`))
  await page.getByTestId('field-read-path').fill('/tmp/data.bin')
  await page.getByRole('button', { name: 'Read it' }).click()
  await page.getByTestId('file-read').waitFor({ timeout: 60_000 })
  const downloading = page.waitForEvent('download')
  await page.getByTestId('download').click()
  assert.ok((await readFile(await (await downloading).path())).equals(content))
  await page.getByTestId('field-read-path').fill('/no/such/file')
  await page.getByRole('button', { name: 'Read it' }).click()
  await page.getByTestId('read-file').getByText('No such file').waitFor()
  const shadow = await inGuest('hello', 'cat', '/etc/shadow')
  await page.getByLabel('New password', { exact: true }).fill('a long password')
  await page.getByRole('button', { name: 'Set it' }).click()
  await page.getByTestId('password-set').waitFor({ timeout: 30_000 })
  assert.notEqual(await inGuest('hello', 'cat', '/etc/shadow'), shadow)
  await shoot(page, 'guest-real')
})

/** Interrupts of the guest's keyboard controller so far: two bytes come from each key, when it goes down and when it comes up. */
async function keyboardCount(): Promise<number> {
  return Number(/^ *1: +(\d+) .*i8042$/m.exec(await inGuest('hello', 'cat', '/proc/interrupts'))?.[1])
}

/** How many colours the guest's picture has: one is a blank screen. */
const colourCount = (): Promise<number> =>
  page.evaluate(() => {
    const canvas = document.querySelector<HTMLCanvasElement>('[data-testid="screen"] canvas')
    const pixels = canvas?.getContext('2d')?.getImageData(0, 0, canvas.width, canvas.height).data
    return pixels === undefined ? 0 : new Set(new Uint32Array(pixels.buffer)).size
  })

test('the screen shows what the guest draws, and keys reach it', { skip, timeout: 90_000 }, async () => {
  await page.getByRole('link', { name: 'Screen' }).click()
  const open = page.locator('[data-testid="screen"][data-status="open"]')
  await open.waitFor({ timeout: 30_000 })
  const limit = Date.now() + 20_000
  while ((await colourCount()) < 2) {
    assert.ok(Date.now() < limit, 'the screen stayed blank')
    await page.waitForTimeout(200)
  }
  await shoot(page, 'screen')
  const before = await keyboardCount()
  await page.getByTestId('screen-target').click()
  await page.keyboard.type('hello')
  while ((await keyboardCount()) < before + 10) {
    assert.ok(Date.now() < limit, `of ten key movements ${(await keyboardCount()) - before} came`)
    await page.waitForTimeout(200)
  }
  await page.keyboard.press('Control+Shift+L')
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Ctrl+Alt+Del', 'the keyboard has left the screen')
})

test('keys are sent beside the screen, and a picture of it is shown and downloaded', { skip, timeout: 90_000 }, async () => {
  const before = await keyboardCount()
  await page.getByTestId('keys').click()
  await page.getByTestId('keys-esc').click()
  await page.getByTestId('keys').click()
  await page.getByTestId('keys-other').click()
  await page.getByTestId('field-text').fill('Hello')
  await page.getByRole('button', { name: 'Send them' }).click()
  await page.getByTestId('keys-form').waitFor({ state: 'detached' })
  const limit = Date.now() + 20_000
  // Six keys and one Shift, down and up.
  while ((await keyboardCount()) < before + 14) {
    assert.ok(Date.now() < limit, `of fourteen key movements ${(await keyboardCount()) - before} came`)
    await page.waitForTimeout(200)
  }
  await page.getByTestId('picture').click()
  const picture = page.getByTestId('picture-taken')
  await picture.waitFor()
  await page.waitForFunction(
    () => (document.querySelector<HTMLImageElement>('[data-testid="picture-taken"]')?.naturalWidth ?? 0) > 300,
  )
  await shoot(page, 'picture')
  const downloading = page.waitForEvent('download')
  await page.getByTestId('download').click()
  const downloaded = await downloading
  assert.match(downloaded.suggestedFilename(), /^hello-[\d-]+\.png$/)
  const head = (await readFile(await downloaded.path())).subarray(0, 8)
  assert.deepEqual([...head], [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  await page.getByRole('button', { name: 'Close' }).last().click()
})

test('the screen comes back with the platform', { skip, timeout: 90_000 }, async () => {
  await platform.kill()
  await page.locator('[data-testid="screen"][data-status="waiting"]').waitFor()
  await shoot(page, 'screen-waiting')
  await platform.start()
  await page.locator('[data-testid="screen"][data-status="open"]').waitFor({ timeout: 40_000 })
})

test('the overview shows addresses, use and why the guest is in its state', { skip, timeout: 60_000 }, async () => {
  await page.getByRole('link', { name: 'Overview' }).click()
  await page
    .getByTestId('network')
    .getByText(/10\.0\.2\.\d+\/24/)
    .waitFor({ timeout: 30_000 })
  // Two readings make a rate.
  await page
    .getByTestId('usage')
    .getByText(/^\d+ %$/)
    .waitFor()
  await shoot(page, 'overview-real')
})

test('its memory is dumped to a file that the page names, and it goes on', { skip, timeout: 120_000 }, async () => {
  await page.getByTestId('dump').click()
  const told = page.getByTestId('core-dump').locator('.mono')
  await told.waitFor({ timeout: 90_000 })
  const head = Buffer.alloc(4)
  await using file = await open((await told.textContent()) ?? '')
  await file.read(head, 0, 4, 0)
  assert.deepEqual([...head], [0x7f, 0x45, 0x4c, 0x46], 'an ELF file on the host')
  await page.locator('[data-testid="state"][data-state="running"]').waitFor()
  await shoot(page, 'core-dump-real')
})

test('a guest is saved and restored from the page, and its console goes on', { skip, timeout: 120_000 }, async () => {
  await page.getByTestId('verbs').click()
  await page.getByTestId('verb-save').click()
  await page.locator('[data-testid="state"][data-state="saved"]').waitFor({ timeout: 60_000 })
  await page.getByRole('link', { name: 'Console' }).click()
  await page.locator('[data-testid="console"][data-status="ended"]').waitFor()
  await untilText(/^all said$/m)
  await shoot(page, 'console-off')
  await page.getByRole('link', { name: 'Screen' }).click()
  await page.getByText('The machine is off').waitFor()
  await shoot(page, 'screen-off')
  await page.getByTestId('do-restore').click()
  await page.locator('[data-testid="state"][data-state="running"]').waitFor({ timeout: 60_000 })
  await page.locator('[data-testid="screen"][data-status="open"]').waitFor({ timeout: 30_000 })
  await page.getByRole('link', { name: 'Console' }).click()
  await connected()
  await type('echo still-$((40+2))')
  await untilText(/^still-42$/m)
})

test('a guest that panics is dumped and started again, as its page was told to', { skip, timeout: 240_000 }, async () => {
  await page.getByRole('link', { name: 'Overview' }).click()
  await page.getByTestId('change-recovery').click()
  await page.getByTestId('field-onCrash').selectOption('dump-reboot')
  await page.getByRole('button', { name: 'Change it' }).click()
  await page.getByTestId('recovery').getByText('Core dump, then it is started again').waitFor()
  const boot = await inGuest('hello', 'cat', '/proc/sys/kernel/random/boot_id')
  const told = page.getByTestId('core-dump').locator('.mono')
  const before = await told.textContent()
  await inGuest('hello', 'sh', '-c', 'echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger').catch(() => '')
  const limit = Date.now() + 180_000
  const otherBoot = async () => (await inGuest('hello', 'cat', '/proc/sys/kernel/random/boot_id').catch(() => boot)) !== boot
  while (!(await otherBoot())) {
    assert.ok(Date.now() < limit, 'it was not started again')
    await page.waitForTimeout(500)
  }
  while ((await told.textContent()) === before) {
    assert.ok(Date.now() < limit, 'the page names the dump of before')
    await page.waitForTimeout(200)
  }
  await shoot(page, 'crashed-and-started')
})

test('where no agent runs in the guest the page says so', { skip, timeout: 120_000 }, async () => {
  await inGuest('hello', 'sh', '-c', 'mv /usr/lib/typevisor/agent /root/; kill $(pidof qemu-ga)').catch(() => '')
  await page.getByRole('link', { name: 'Guest' }).click()
  await page.reload()
  await page.getByTestId('agent-notice').getByText('No agent answers in the guest').waitFor({ timeout: 60_000 })
  await page.getByTestId('field-read-path').fill('/etc/motd')
  await page.getByRole('button', { name: 'Read it' }).click()
  await page.getByTestId('read-file').getByText('no agent runs in the guest').waitFor({ timeout: 30_000 })
  await shoot(page, 'guest-no-agent')
})

test('an instance that cannot start says why, and can be removed', { skip, timeout: 120_000 }, async () => {
  await page.goto(`${platform.url}/instances?create=true`)
  await page.getByTestId('field-name').fill('clash')
  await page.getByTestId('more').locator('summary').click()
  await page.getByTestId('add-forward').click()
  // The port of the platform itself: QEMU cannot have it.
  await page.getByLabel('Port of the host', { exact: true }).fill(new URL(platform.url).port)
  await page.getByTestId('create-go').click()
  const fault = page.getByTestId('notice-fault').or(page.getByTestId('form-fault'))
  await fault.first().waitFor({ timeout: 60_000 })
  await shoot(page, 'create-failed')
  assert.match(await fault.first().innerText(), /port|hostfwd/i)
  await page.getByTestId('state-detail').waitFor()
  await page.getByTestId('do-destroy').click()
  await page.getByTestId('confirm-word').fill('clash')
  await page.getByTestId('confirm-go').click()
  await page.getByText('There is no instance clash').waitFor({ timeout: 30_000 })
})

test(
  'a guest with Secure Boot, a TPM and room to grow is made by the form, and has them',
  { skip: skipUefi, timeout: 240_000 },
  async () => {
    await page.goto(`${platform.url}/instances?create=true`)
    await page.getByTestId('field-name').fill('safe')
    await page.getByTestId('advanced').locator('summary').click()
    await page.getByTestId('field-firmware').selectOption('uefi-secure')
    await page.getByTestId('field-tpm').check()
    await page.getByTestId('field-vcpuCountMax').fill('2')
    await shoot(page, 'create-secure')
    await page.getByTestId('create-go').click()
    await page.locator('[data-testid="state"][data-state="running"]').waitFor({ timeout: BOOT_MS })
    await page.getByTestId('facts').getByText('UEFI with Secure Boot, with a TPM').waitFor()
    await page
      .getByTestId('network')
      .getByText(/10\.0\.2\.\d+\/24/)
      .waitFor({ timeout: 120_000 })
    const script =
      'mkdir -p /run/vars; modprobe efivarfs; mount -t efivarfs none /run/vars; tail -c 1 /run/vars/SecureBoot-* | od -An -tu1; [ -c /dev/tpm0 ] && echo tpm; cat /sys/devices/system/cpu/possible'
    assert.deepEqual((await inGuest('safe', 'sh', '-c', script)).trim().split(/\s+/), ['1', 'tpm', '0-1'])
    await shoot(page, 'secure')
    await page.getByTestId('verbs').click()
    await page.getByTestId('verb-destroy').click()
    await page.getByTestId('confirm-word').fill('safe')
    await page.getByTestId('confirm-go').click()
    await page.getByText('There is no instance safe').waitFor({ timeout: 30_000 })
  },
)

test('nothing was asked of another origin, and the content policy refused nothing', { skip }, () => {
  assert.deepEqual(browser.foreign, [])
  assert.deepEqual(browser.errors, [])
})

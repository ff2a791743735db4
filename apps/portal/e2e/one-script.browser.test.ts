/** The script in the portal: each step by a person's clicks and keys, on a server and the agents of two hosts with real guests. */
import assert from 'node:assert/strict'
import { after, before, test, type TestContext } from 'node:test'
import type { Page } from 'playwright-core'
import { clientEyes, INSTANCE, SCRIPT, STEPS, walk, whyNoScript, type StepName, type Walk } from '@typevisor/agent/testing'
import { formatBytes } from '@typevisor/base'
import { CHROMIUM, hasChromium, openBrowser, shoot, signIn, type TestBrowser } from './browser.ts'
import { ensureBuilt } from './built.ts'
import { startPlatform, type TestPlatform } from './platform.ts'

const skip = hasChromium() ? whyNoScript() : `no Chromium at ${CHROMIUM}`
/** Of what QEMU does under emulation on a busy machine. */
const SLOW = { timeout: 60_000 }
const opened = new AsyncDisposableStack()
let platform: TestPlatform
let browser: TestBrowser
let page: Page
let script: Walk
let doneCount = 0
let running: TestContext | undefined

const field = (name: string) => page.getByTestId(`field-${name}`)
const state = (kind: string) => page.locator(`[data-testid="state"][data-state="${kind}"]`).first().waitFor(SLOW)
const row = (name: string) => page.locator(`[data-testid="row"][data-name="${name}"]`)
const tab = (name: string) => page.getByRole('link', { name, exact: true }).click()
async function verb(name: string): Promise<void> {
  await page.getByTestId('verbs').click()
  await page.getByTestId(`verb-${name}`).click()
}
async function confirm(): Promise<void> {
  await page.getByTestId('confirm-word').fill(INSTANCE)
  await page.getByTestId('confirm-go').click()
}
async function change(values: Readonly<Record<string, string>>): Promise<void> {
  await tab('Overview')
  await page.getByTestId('change-resources').click()
  for (const [name, value] of Object.entries(values)) await field(name).fill(value)
  await page.getByRole('button', { name: 'Change it' }).click()
  await page.getByTestId('resources-form').waitFor({ state: 'detached' })
}
const resources = (text: string) => page.getByTestId('resources').getByText(text).waitFor(SLOW)

/** What is shown may come before its operation has ended. */
const settled = async (): Promise<void> => {
  const limit = Date.now() + SLOW.timeout
  for (;;) {
    const found = await platform.client.call('instance.get', { params: { instance: INSTANCE } }).catch(() => null)
    if (found === null || found.operation === null) return
    assert.ok(Date.now() < limit, `operation ${found.operation} does not end`)
    await page.waitForTimeout(100)
  }
}

const DOES: Readonly<Record<StepName, () => Promise<void>>> = {
  async create() {
    const { vcpuCountMax, memoryBytes, rootDiskBytes, guestPort } = SCRIPT.create
    await page.getByTestId('create').click()
    await field('name').fill(INSTANCE)
    for (const part of await page.getByTestId('create-form').locator('details > summary').all()) await part.click()
    await field('memory').fill(formatBytes(memoryBytes))
    await field('disk').fill(formatBytes(rootDiskBytes))
    await field('vcpuCountMax').fill(String(vcpuCountMax))
    await field('host').selectOption('left')
    await page.getByTestId('add-forward').click()
    await page.getByLabel('Port of the guest', { exact: true }).fill(String(guestPort))
    await shoot(page, 'script-create')
    await page.getByTestId('create-go').click()
    await state('running')
  },
  async console() {
    await tab('Console')
    await page.locator('[data-testid="console"][data-status="open"]').waitFor(SLOW)
    await page.getByTestId('console-screen').click()
    await page.keyboard.type(SCRIPT.console.types)
    await page.keyboard.press('Enter')
  },
  async pause() {
    await verb('pause')
    await state('paused')
  },
  async save() {
    await verb('save')
    await state('saved')
  },
  async restore() {
    await page.getByTestId('do-restore').click()
    await state('running')
  },
  async snapshot() {
    await tab('Snapshots')
    await page.getByTestId('take-snapshot').click()
    await field('snapshot-name').fill(SCRIPT.snapshot.snapshot)
    await field('memory').check()
    await page.getByRole('button', { name: 'Take it' }).click()
    await row(SCRIPT.snapshot.snapshot).getByText('disks and memory').waitFor(SLOW)
  },
  async revert() {
    await row(SCRIPT.revert.snapshot).getByTestId('row-menu').click()
    await page.getByTestId('snapshot-revert').click()
    await confirm()
    await page.getByTestId('confirm').waitFor({ state: 'detached' })
  },
  async 'attach-disk'() {
    await tab('Devices')
    await page.getByTestId('attach').click()
    await field('device').fill(SCRIPT['attach-disk'].device)
    await field('size').fill(formatBytes(SCRIPT['attach-disk'].sizeBytes))
    await page.getByRole('button', { name: 'Attach it' }).click()
    await row(SCRIPT['attach-disk'].device).waitFor(SLOW)
  },
  async 'attach-nic'() {
    await page.getByTestId('attach').click()
    await field('kind').selectOption('nic')
    await field('device').fill(SCRIPT['attach-nic'].device)
    await page.getByTestId('add-forward').click()
    await page.getByLabel('Port of the guest', { exact: true }).fill(String(SCRIPT['attach-nic'].guestPort))
    await shoot(page, 'script-attach-nic')
    await page.getByRole('button', { name: 'Attach it' }).click()
    await row(SCRIPT['attach-nic'].device).waitFor(SLOW)
  },
  async 'plug-vcpu'() {
    await change({ vcpuCount: String(SCRIPT['plug-vcpu'].vcpuCount) })
    await resources(`${SCRIPT['plug-vcpu'].vcpuCount} vCPU`)
  },
  async balloon() {
    await change({ memoryTarget: formatBytes(SCRIPT.balloon.memoryTargetBytes) })
    await resources(formatBytes(SCRIPT.balloon.memoryTargetBytes))
  },
  async pin() {
    await change({ affinityHard: SCRIPT.pin.cpus })
    await page.getByTestId('resources').getByText('Runs on CPUs').waitFor(SLOW)
  },
  async weight() {
    await change({ cpuWeight: String(SCRIPT.weight.cpuWeight) })
    await resources(`weight ${SCRIPT.weight.cpuWeight}`)
  },
  async migrate() {
    await verb('migrate')
    await field('host').selectOption(SCRIPT.migrate.to)
    await field('drop-snapshots').check()
    await shoot(page, 'script-migrate')
    await page.getByRole('button', { name: 'Migrate' }).click()
    await page.getByTestId('facts').getByText(SCRIPT.migrate.to, { exact: true }).waitFor(SLOW)
  },
  async destroy() {
    await verb('destroy')
    await confirm()
    await page.getByText(`There is no instance ${INSTANCE}`).waitFor(SLOW)
  },
}

before(
  async () => {
    if (skip !== false) return
    await ensureBuilt()
    platform = opened.use(await startPlatform({ driver: 'qemu', agent: false }))
    const { client } = platform
    const folders = { left: '', right: '' }
    for (const host of ['left', 'right'] as const) {
      folders[host] = (await platform.join(host)).dataDir
      const { operation } = await client.call('image.build', { params: { image: 'micro' }, body: { host }, query: { wait: 60 } })
      assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
    }
    browser = opened.use(await openBrowser({ origin: platform.url }))
    ;({ page } = browser)
    await page.goto(`${platform.url}/instances`)
    await signIn(page, platform.password)
    script = opened.use(walk(clientEyes(client, folders), (what) => running?.diagnostic(what)))
  },
  { timeout: 300_000 },
)
after(() => opened.disposeAsync())

for (const step of STEPS) {
  test(`a person does it in the portal: ${step}`, { skip, timeout: 240_000 }, async (t) => {
    assert.equal(STEPS[doneCount], step, 'the step before it failed')
    running = t
    await DOES[step]()
    await settled()
    await script.done(step)
    doneCount += 1
  })
}

test('no step is left, and the pages had no fault', { skip }, () => {
  script.over()
  assert.deepEqual(browser.errors, [])
})

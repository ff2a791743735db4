/** A platform with the instance `web-1`, and somebody who is signed in and looks at it. */
import assert from 'node:assert/strict'
import type { Page } from 'playwright-core'
import type { Body } from '@typevisor/api'
import { openBrowser, shoot, signIn, type TestBrowser } from './browser.ts'
import { ensureBuilt } from './built.ts'
import { faintTexts, namelessControls } from './legible.ts'
import { startPlatform, type TestPlatform } from './platform.ts'

export interface OpenPortal extends AsyncDisposable {
  readonly platform: TestPlatform
  readonly browser: TestBrowser
  readonly page: Page
}

/** `prepare`: what is done before somebody looks. */
export async function openPortal(
  instance: Omit<NonNullable<Body<'instance.create'>>, 'name'> = {},
  prepare: (platform: TestPlatform) => Promise<unknown> = async () => {},
): Promise<OpenPortal> {
  await ensureBuilt()
  await using opening = new AsyncDisposableStack()
  const platform = opening.use(await startPlatform({ driver: 'sim' }))
  await platform.client.call('instance.create', { query: { wait: 20 }, body: { name: 'web-1', ...instance } })
  await prepare(platform)
  const browser = opening.use(await openBrowser({ origin: platform.url }))
  const { page } = browser
  await page.goto(`${platform.url}/instances/web-1`)
  await signIn(page, platform.password)
  await page.getByRole('heading', { name: 'web-1' }).waitFor()
  const opened = opening.move()
  return { platform, browser, page, [Symbol.asyncDispose]: () => opened.disposeAsync() }
}

export interface LegiblePage {
  readonly path: string
  /** Test id of what is there when the page is. */
  readonly ready: string
  readonly picture: string
  /** Opened from there, and looked at too. */
  readonly opened: { readonly what: 'form' | 'list'; readonly picture: string; readonly open: (page: Page) => Promise<void> }
}

/** In the dark and in the light, on a phone and on a desk: it fits, and can be read. */
export async function assertLegible(platform: TestPlatform, { path, ready, picture, opened }: LegiblePage): Promise<void> {
  for (const scheme of ['light', 'dark'] as const) {
    for (const width of [390, 1440]) {
      await using browser = await openBrowser({ origin: platform.url, width, height: 844, scheme })
      const { page, errors } = browser
      await page.goto(`${platform.url}${path}`)
      await signIn(page, platform.password)
      await page.getByTestId(ready).first().waitFor()
      await shoot(page, `${picture}-${scheme}-${width}`)
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
      assert.equal(over, 0, `${over} px wider than the screen`)
      assert.deepEqual(await faintTexts(page), [], `${scheme}: text too faint`)
      assert.deepEqual(await namelessControls(page), [], 'controls without a name')
      await opened.open(page)
      await shoot(page, `${opened.picture}-${scheme}-${width}`)
      assert.deepEqual(await faintTexts(page), [], `${scheme}, ${opened.what}: text too faint`)
      assert.deepEqual(errors, [])
    }
  }
}

/** A real Chromium with a fresh profile, which notes every request that leaves the origin and every error of a page. */
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium, type BrowserContext, type Page } from 'playwright-core'

export const CHROMIUM = process.env['CHROMIUM'] ?? '/usr/bin/chromium'
export const hasChromium = (): boolean => existsSync(CHROMIUM)

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

export interface TestBrowser extends AsyncDisposable {
  readonly context: BrowserContext
  readonly page: Page
  /** Errors that a page threw, and what its policy refused. */
  readonly errors: string[]
  /** Requests to anywhere but the platform. */
  readonly foreign: string[]
}

export interface BrowserOptions {
  readonly origin: string
  readonly width?: number
  readonly height?: number
  readonly scheme?: 'light' | 'dark'
}

export async function openBrowser({
  origin,
  width = 1440,
  height = 900,
  scheme = 'light',
}: BrowserOptions): Promise<TestBrowser> {
  const profile = await mkdtemp(join(tmpdir(), 'tv-chromium-'))
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    args: FLAGS,
    viewport: { width, height },
    colorScheme: scheme,
    reducedMotion: 'reduce',
    permissions: ['clipboard-read', 'clipboard-write'],
  })
  const errors: string[] = []
  const foreign: string[] = []
  context.on('request', (request) => {
    if (!request.url().startsWith(origin) && !/^(?:data|blob|about|chrome):/.test(request.url())) foreign.push(request.url())
  })
  const page = context.pages()[0] ?? (await context.newPage())
  page.on('pageerror', (error) => errors.push(error.message))
  page.on('console', (message) => {
    if (/Content Security Policy|Uncaught/.test(message.text())) errors.push(message.text())
  })
  page.setDefaultTimeout(15_000)
  return {
    context,
    page,
    errors,
    foreign,
    async [Symbol.asyncDispose]() {
      await context.close()
      await rm(profile, { recursive: true, force: true, maxRetries: 5 })
    },
  }
}

export async function signIn(page: Page, password: string): Promise<void> {
  await page.getByLabel('Password', { exact: true }).fill(password)
  await page.getByRole('button', { name: 'Sign in' }).click()
}

/** A picture of the page, in the folder `PORTAL_SCREENSHOTS` when that is set. */
export async function shoot(page: Page, name: string): Promise<void> {
  const folder = process.env['PORTAL_SCREENSHOTS']
  if (folder !== undefined) await page.screenshot({ path: join(folder, `${name}.png`) })
}

/** A whole platform for a test: real PostgreSQL, the chosen driver, a port that the system chose, a folder that goes when the test does. */
import { mkdtemp, rm, chmod } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient, type Client } from '@typevisor/api/client'
import { startPlatform, type Platform, type StartOptions } from '../commands/start.ts'

export interface TestPlatform extends AsyncDisposable {
  readonly platform: Platform
  readonly client: Client
  readonly dataDir: string
}

/** Guests run as another user where we are root: the folder must let it pass. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'typevisor-test-'))
  await chmod(folder, 0o711)
  return folder
}

export const startOptions = (dataDir: string, changes: Partial<StartOptions> = {}): StartOptions => ({
  port: 0,
  listen: undefined,
  names: [],
  trustedProxies: [],
  trustedOrigins: [],
  dataDir,
  empty: true,
  agent: true,
  driver: 'sim',
  hostName: 'local',
  tls: undefined,
  logLevel: 'error',
  ...changes,
})

export async function openPlatform(changes: Partial<StartOptions> = {}): Promise<TestPlatform> {
  const dataDir = changes.dataDir ?? (await temporaryFolder())
  const platform = await startPlatform(startOptions(dataDir, changes), {})
  const client = createClient({ baseUrl: platform.server.url, token: platform.server.localToken })
  return {
    platform,
    client,
    dataDir,
    async [Symbol.asyncDispose]() {
      await platform.host?.stopGuests().catch(() => {})
      await platform.close()
      if (changes.dataDir === undefined) await rm(dataDir, { recursive: true, force: true })
    },
  }
}

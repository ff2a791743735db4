import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { millis } from '@typevisor/base'
import { createAcceleratorProbe, probeArguments, probeRom, type AcceleratorProbe } from './accelerator.ts'
import { testHost, testIds } from './testing.ts'

async function probeOf(t: TestContext, over: Partial<AcceleratorProbe> = {}): Promise<AcceleratorProbe> {
  const folder = await mkdtemp(join(tmpdir(), 'tvq-'))
  t.after(() => rm(folder, { recursive: true }))
  return { host: testHost(), binary: 'qemu-system-x86_64', folder, ids: testIds, wanted: 'auto', user: null, ...over }
}

test('the probe guest runs to its letter and its exit code on TCG', async (t) => {
  const { host, folder } = await probeOf(t)
  const rom = join(folder, 'probe.rom')
  await writeFile(rom, probeRom())
  const result = await host.processes.run('qemu-system-x86_64', probeArguments('tcg', rom), { limit: millis(10_000) })
  assert.deepEqual([result.exitCode, result.stdout], [1, 'K'], result.stderr)
})

test('no device is TCG with the reason; a device node that runs no guest is TCG with QEMU’s words', async (t) => {
  const missing = await createAcceleratorProbe(await probeOf(t, { device: '/no/kvm' }))()
  assert.deepEqual([missing.accelerator, missing.reason], ['tcg', 'no /no/kvm'])
  const fake = await createAcceleratorProbe(await probeOf(t, { device: '/dev/null' }))()
  t.diagnostic(`${fake.version}: ${fake.accelerator}, ${fake.reason}`)
  assert.match(fake.version, /^QEMU \d+\.\d+/)
  assert.ok(fake.accelerator === 'kvm' || fake.reason.startsWith('probe guest on /dev/kvm failed: '))
})

test('the result is kept for this boot, this QEMU and its user, and found out again for another', async (t) => {
  const host = testHost()
  let runCount = 0
  const counting = {
    ...host,
    processes: {
      ...host.processes,
      run: async (command: string, argv: readonly string[]) => {
        if (argv.includes('--version')) return { exitCode: 0, stdout: 'QEMU emulator version 9.1.0', stderr: '' }
        runCount += 1
        return { exitCode: 1, stdout: 'K', stderr: command.slice(0, 0) }
      },
    },
  }
  const probe = await probeOf(t, { host: counting, device: '/dev/null' })
  assert.deepEqual(await createAcceleratorProbe(probe)(), {
    accelerator: 'kvm',
    reason: 'a probe guest ran on /dev/kvm',
    version: 'QEMU 9.1.0',
  })
  await createAcceleratorProbe(probe)()
  assert.equal(runCount, 1)
  const nextBoot = { ...counting, processes: { ...counting.processes, bootId: async () => 'another' } }
  await createAcceleratorProbe({ ...probe, host: nextBoot })()
  assert.equal(runCount, 2)
  for (const user of [
    { uid: 995, gid: 994 },
    { uid: 995, gid: 994 },
    { uid: 996, gid: 994 },
  ])
    await createAcceleratorProbe({ ...probe, user })()
  assert.equal(runCount, 4)
})

test('a device that may not be opened is tried again the next time: groups and modes change', async (t) => {
  const host = testHost()
  let answer = { exitCode: 1, stdout: '', stderr: 'qemu: Could not access KVM kernel module: Permission denied\n' }
  const run = async (_command: string, argv: readonly string[]) =>
    argv.includes('--version') ? { exitCode: 0, stdout: 'QEMU emulator version 9.1.0', stderr: '' } : answer
  const probe = await probeOf(t, { host: { ...host, processes: { ...host.processes, run } }, device: '/dev/null' })
  const refused = await createAcceleratorProbe(probe)()
  assert.equal(refused.accelerator, 'tcg')
  assert.match(refused.reason, /Permission denied$/)
  answer = { exitCode: 1, stdout: 'K', stderr: '' }
  assert.equal((await createAcceleratorProbe(probe)()).accelerator, 'kvm')
})

test('a probe that hangs is TCG, and its process is ended', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'tvq-'))
  t.after(() => rm(folder, { recursive: true }))
  const binary = join(folder, 'hanging-qemu')
  const body = `#!${process.execPath}\nif (process.argv.includes('--version')) console.log('QEMU emulator version 7.2.0')\nelse setTimeout(() => {}, 60000)\n`
  await writeFile(binary, body, { mode: 0o755 })
  const found = await createAcceleratorProbe(await probeOf(t, { binary, device: '/dev/null' }))()
  assert.deepEqual([found.accelerator, found.reason], ['tcg', 'probe guest on /dev/kvm gave no answer in 3000 ms'])
})

/** Firmware on real guests: what is booted, what is refused by a signature, what comes over the network, and what is left of it all. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, readFile, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import type { DomainSpec, Firmware } from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import { efiDisk, efiProgram, RUNS } from './efi-guest.ts'
import { bench, consoleText, pidOf, testHost, tinyGuestDisk, until, type Bench } from './testing.ts'

const run = promisify(execFile)
const LIMIT_MS = 60_000

async function booting(b: Bench, spec: Partial<DomainSpec>, disk: Uint8Array | null = efiDisk()): Promise<DriverDomain> {
  const path = join(b.folder, 'efi.raw')
  if (disk) await writeFile(path, disk)
  const domain = await b.domain({
    memoryMib: 256,
    spec,
    ...(disk ? { volumes: { root: { kind: 'file', path, format: 'raw' } } } : {}),
  })
  await b.driver.create(domain)
  await b.driver.unpause(domain.id)
  return domain
}

test('UEFI boots a program without a signature, and with Secure Boot refuses the same', async (t) => {
  const b = await bench(t)
  const said = async (firmware: Firmware, words: string): Promise<string> => {
    const domain = await booting(b, { firmware })
    const text = await consoleText(b.driver, domain, (all) => all.includes(words), LIMIT_MS)
    await b.driver.destroy(domain.id)
    return text
  }
  assert.ok(!(await said('uefi', RUNS)).includes('Access Denied'))
  assert.ok(!(await said('uefi-secure', 'Access Denied')).includes(RUNS))
})

test('BIOS boots from the network by a script, before a disk that boots too', async (t) => {
  const b = await bench(t)
  const folder = join(b.folder, 'netboot')
  await mkdir(folder)
  await writeFile(join(folder, 'boot.ipxe'), '#!ipxe\nchain tiny.0\n')
  // What a boot sector does, it does as a network boot program as well.
  const sector = tinyGuestDisk().slice(0, 512)
  const at = Buffer.from(sector).indexOf('boot\n')
  sector.set(new TextEncoder().encode('LAN!'), at)
  await writeFile(join(folder, 'tiny.0'), sector)
  const driver = b.open({ netbootFolder: folder })
  const b2 = { ...b, driver }
  const first = await booting(b2, { bootOrder: ['network', 'disk'] }, null)
  await consoleText(driver, first, (text) => text.includes('LAN!\n00000000\n'), LIMIT_MS)
  await driver.destroy(first.id)
  const second = await booting(b2, { bootOrder: ['disk', 'network'] }, null)
  const text = await consoleText(driver, second, (all) => all.includes('00000000\n'), LIMIT_MS)
  assert.ok(text.includes('boot\n') && !text.includes('LAN!'))
})

test('UEFI boots from the network; a file that is not there is told at the start', async (t) => {
  const b = await bench(t)
  const folder = join(b.folder, 'netboot')
  await mkdir(folder)
  const driver = b.open({ netbootFolder: folder })
  const spec = { firmware: 'uefi', bootOrder: ['network'] } as const
  await assert.rejects(booting({ ...b, driver }, spec, null), { code: 'failed', message: /no file .*boot-x86_64\.efi/ })
  await writeFile(join(folder, 'boot-x86_64.efi'), efiProgram())
  const domain = await booting({ ...b, driver }, spec, null)
  await consoleText(driver, domain, (text) => text.includes(RUNS), LIMIT_MS)
})

test('a TPM is a process that ends with its guest, however that ends, and keeps its state', async (t) => {
  const b = await bench(t)
  const host = testHost()
  const domain = await booting(b, { firmware: 'uefi', tpm: true })
  const pid = Number(await readFile(join(b.folder, 'run', domain.id, 'tpm.pid'), 'utf8'))
  const state = join(b.folder, 'data', domain.id, 'tpm', 'tpm2-00.permall')
  assert.ok((await stat(state)).size > 0)
  const isGone = async (of: number): Promise<boolean> => (await host.processes.identity(of)) === null
  assert.equal(await isGone(pid), false)
  process.kill(await pidOf(b, domain), 'SIGKILL')
  await until(() => isGone(pid), 'the TPM of a guest that was killed ends')
  await b.driver.create(domain)
  const next = Number(await readFile(join(b.folder, 'run', domain.id, 'tpm.pid'), 'utf8'))
  // Another driver finds it by what the first wrote down.
  await b.driver.close()
  const other = b.open()
  await other.adopt([domain])
  await other.destroy(domain.id)
  assert.equal(await isGone(next), true)
  assert.ok((await stat(state)).size > 0, 'its state outlives the run')
  await other.forget(domain.id)
  await assert.rejects(stat(state))
})

test('a start that is killed behind its TPM leaves none', async (t) => {
  const b = await bench(t)
  const host = testHost()
  const spawned: number[] = []
  const broken = b.open({
    host: {
      ...host,
      processes: {
        ...host.processes,
        spawnDetached: async (request) => {
          if (request.command !== 'swtpm') throw new Error('the caller is killed here')
          const found = await host.processes.spawnDetached(request)
          spawned.push(found.pid)
          return found
        },
        // Nothing is ended by a caller that is gone.
        signal: async () => false,
      },
    },
  })
  const domain = await b.domain({ memoryMib: 256, spec: { firmware: 'uefi', tpm: true } })
  void broken.create(domain).catch(() => {})
  await until(() => spawned.length === 1, 'the TPM is there')
  await until(async () => (await host.files.size(join(b.folder, 'run', domain.id, 'tpm.pid'))) !== null, 'it listens')
  assert.equal((await b.driver.adopt([domain])).get(domain.id)?.kind, 'gone')
  await b.driver.destroy(domain.id)
  assert.equal(await host.processes.identity(spawned[0] ?? 0), null)
})

test('an NVRAM that fits no build is refused, and nothing is left of the start', async (t) => {
  const b = await bench(t)
  const domain = await b.domain({ memoryMib: 256, spec: { firmware: 'uefi' } })
  const folder = join(b.folder, 'data', domain.id)
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'nvram.fd'), new Uint8Array(4096))
  await assert.rejects(b.driver.create(domain), { code: 'failed', message: /4096 bytes/ })
  assert.deepEqual(await readdir(join(b.folder, 'run')), [])
  assert.equal((await run('pgrep', ['-fc', domain.id]).catch(() => ({ stdout: '0\n' }))).stdout.trim(), '0')
})

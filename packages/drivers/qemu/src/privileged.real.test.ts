/** What only root can show: QEMU as its own user, and full disks. Skipped, with the reason, for anybody else. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { millis } from '@typevisor/base'
import { parseVolumeId, waitsForRoom } from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import type { QemuDriverLimits } from './driver.ts'
import { efiDisk, efiProgram, RUNS } from './efi-guest.ts'
import {
  assertCounts,
  bench,
  consoleText,
  last,
  pidOf,
  running,
  tinyGuestDisk,
  type,
  until,
  watch,
  type Bench,
} from './testing.ts'

const run = promisify(execFile)
const skip = process.getuid?.() === 0 ? false : 'needs root'
/** `nobody`: in the tests no name is looked up. */
const USER = { uid: 65534, gid: 65534 }

/** As a system has them: the run folder reachable for all, the data folder for its owner only. */
async function asUser(t: TestContext): Promise<Bench> {
  const b = await bench(t, { user: USER })
  await chmod(b.folder, 0o711)
  await mkdir(join(b.folder, 'run'), { mode: 0o711 })
  await mkdir(join(b.folder, 'data'), { mode: 0o700 })
  return b
}

const userOf = async (pid: number): Promise<string[]> =>
  /^Uid:\s+(.*)$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]?.split('\t') ?? []

test('QEMU runs as its own user, with disks and console log in folders that this user cannot reach', { skip }, async (t) => {
  const b = await asUser(t)
  const secret = join(b.folder, 'secret')
  await mkdir(secret, { mode: 0o700 })
  const base = join(secret, 'base.raw')
  const path = join(secret, 'root.qcow2')
  await writeFile(base, tinyGuestDisk(), { mode: 0o600 })
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', path])
  await chmod(path, 0o600)
  const domain = await running(b, { volumes: { root: { kind: 'file', path, format: 'qcow2' } } })
  assert.deepEqual(await userOf(await pidOf(b, domain)), ['65534', '65534', '65534', '65534'])
  await type(b.driver, domain, 'w')
  await consoleText(b.driver, domain, (text) => text.includes('W'))
  const save = join(secret, 'guest.save')
  await b.driver.save(domain.id, save)
  await b.driver.restore(domain, save)
  await b.driver.unpause(domain.id)
  await type(b.driver, domain, 'w')
  await consoleText(b.driver, domain, (text) => text.split('W').length === 3)
  const stream = await b.driver.openVnc(domain.id)
  stream.close()
  const whole = await consoleText(b.driver, domain, () => true)
  assertCounts(whole.replaceAll('W', ''))
})

test('what is plugged into that QEMU later is handed to it open, and closed when it is taken away', { skip }, async (t) => {
  const b = await asUser(t)
  const secret = join(b.folder, 'secret')
  await mkdir(secret, { mode: 0o700 })
  const [base, path, disc] = [join(secret, 'base.raw'), join(secret, 'data.qcow2'), join(secret, 'disc.iso')]
  await writeFile(base, new Uint8Array(1024 * 1024), { mode: 0o600 })
  await writeFile(disc, new Uint8Array(1024 * 1024), { mode: 0o600 })
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', path])
  await chmod(path, 0o600)
  const domain = await running(b, { spec: { hotplugPortCount: 4 } })
  const pid = await pidOf(b, domain)
  const held = async (): Promise<string[]> => {
    const links = await Promise.all(
      (await readdir(`/proc/${pid}/fd`)).map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')),
    )
    return [...new Set(links.filter((link) => link.startsWith(secret)))].toSorted()
  }
  const data = parseVolumeId(`${domain.id}.data`)
  const planned = await b.driver.planDevice(domain, { kind: 'disk', name: 'data' }, data)
  const withDisk: DriverDomain = {
    ...domain,
    hardware: { ...domain.hardware, devices: [...domain.hardware.devices, ...planned] },
    volumes: { ...domain.volumes, [data]: { kind: 'file', path, format: 'qcow2' } },
  }
  for (let run = 0; run < 2; run += 1) {
    for (const device of planned) await b.driver.attach(withDisk, device)
    assert.deepEqual(await held(), [base, path])
    await b.driver.detach(domain.id, 'data', { timeoutMs: 0, force: true })
    assert.deepEqual(await held(), [])
  }

  const drive = await b.driver.planDevice(domain, { kind: 'cd', name: 'cd' }, null)
  const empty = { ...domain, hardware: { ...domain.hardware, devices: [...domain.hardware.devices, ...drive] } }
  for (const device of drive) await b.driver.attach(empty, device)
  const medium = parseVolumeId(`${domain.id}.cd`)
  const loaded: DriverDomain = {
    ...empty,
    hardware: {
      ...empty.hardware,
      devices: empty.hardware.devices.map((device) => (device.name === 'cd' ? { ...device, volume: medium } : device)) as never,
    },
    volumes: { ...domain.volumes, [medium]: { kind: 'file', path: disc, format: 'raw' } },
  }
  await b.driver.changeMedium(loaded, 'cd')
  assert.deepEqual(await held(), [disc])
  await b.driver.changeMedium(empty, 'cd')
  assert.deepEqual(await held(), [])
})

test(
  'firmware, NVRAM, TPM and what is booted from the network are handed to that user behind folders that it cannot reach',
  { skip },
  async (t) => {
    const b = await asUser(t)
    const secret = join(b.folder, 'secret')
    await mkdir(join(secret, 'netboot'), { recursive: true })
    await chmod(secret, 0o700)
    await writeFile(join(secret, 'netboot', 'boot-x86_64.efi'), efiProgram(), { mode: 0o644 })
    const path = join(secret, 'efi.raw')
    await writeFile(path, efiDisk(), { mode: 0o600 })
    const driver = b.open({ netbootFolder: join(secret, 'netboot') })
    for (const bootOrder of [['disk'], ['network']] as const) {
      const spec = { firmware: 'uefi', tpm: true, bootOrder } as const
      const domain = await b.domain({ memoryMib: 256, spec, volumes: { root: { kind: 'file', path, format: 'raw' } } })
      await driver.create(domain)
      await driver.unpause(domain.id)
      await consoleText(driver, domain, (text) => text.includes(RUNS), 60_000)
      const tpm = Number(await readFile(join(b.folder, 'run', domain.id, 'tpm.pid'), 'utf8'))
      for (const pid of [tpm, await pidOf(b, domain)]) assert.equal((await userOf(pid))[0], '65534')
      const save = join(secret, 'guest.save')
      await driver.save(domain.id, save)
      await driver.restore(domain, save)
      await driver.destroy(domain.id)
    }
  },
)

test('a run folder that the QEMU user cannot reach is refused, naming what bars the way', { skip }, async (t) => {
  const b = await bench(t, { user: USER })
  const domain = await b.domain()
  await chmod(b.folder, 0o700)
  await assert.rejects(b.driver.create(domain), {
    code: 'forbidden',
    message: new RegExp(`run folder: folder ${b.folder} has mode 0700`),
  })
  assert.deepEqual(await readdir(join(b.folder, 'run')), [])
})

test(
  'a kernel that the QEMU user may not read is refused; one that it may is found behind a closed folder',
  { skip },
  async (t) => {
    const b = await asUser(t)
    const secret = join(b.folder, 'secret')
    await mkdir(secret, { mode: 0o700 })
    const kernelPath = join(secret, 'vmlinuz')
    await writeFile(kernelPath, 'no kernel, but readable', { mode: 0o600 })
    const domain = await b.domain({ boot: { kind: 'kernel', kernelPath, initrdPath: null, commandLine: 'console=ttyS0' } })
    await assert.rejects(b.driver.create(domain), { code: 'forbidden', message: /vmlinuz has mode 0600 and owner 0:0/ })
    await chmod(kernelPath, 0o644)
    await assert.rejects(b.driver.create(domain), { code: 'failed', message: /invalid kernel header|not a Linux kernel|kernel/i })
  },
)

/** A small file system of its own. */
async function smallDisk(t: TestContext, sizeBytes: number): Promise<string> {
  const folder = await mkdtemp('/tmp/tvq-small-')
  await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'tmpfs', folder])
  t.after(async () => {
    await run('umount', ['-l', folder])
    await rm(folder, { recursive: true })
  })
  return folder
}

test('a save that meets a full disk says so, leaves no file, and the guest goes on', { skip }, async (t) => {
  const small = await smallDisk(t, 256 * 1024)
  const b = await bench(t)
  const domain = await running(b)
  await assert.rejects(b.driver.save(domain.id, join(small, 'guest.save')), { code: 'exhausted', message: /no space left/i })
  assert.deepEqual(await readdir(small), [])
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'running' })
  const { endOffset } = await b.driver.readConsole(domain.id, 0, 1 << 24)
  assertCounts(await consoleText(b.driver, domain, (text) => text.length > endOffset + 20))
})

/** A running guest whose next write finds no room; `makeRoom` ends that. */
async function fullGuest(t: TestContext, limits: Partial<QemuDriverLimits> = {}) {
  const small = await smallDisk(t, 64 * 1024)
  const b = await bench(t, { limits })
  const events = watch(b.driver)
  const path = join(small, 'root.raw')
  const disk = tinyGuestDisk()
  // Sparse: one block for the boot sector, so that the guest's write needs a new one.
  await writeFile(path, disk.subarray(0, 512))
  await run('truncate', ['-s', String(disk.length), path])
  const domain = await running(b, { volumes: { root: { kind: 'file', path, format: 'raw' } } })
  const { bavail, bsize } = await statfs(small)
  await writeFile(join(small, 'filler'), new Uint8Array(bavail * bsize))
  return { small, b, events, path, domain, makeRoom: () => rm(join(small, 'filler')) }
}

test('a guest whose disk is full waits, and goes on when there is space', { skip }, async (t) => {
  const { b, events, path, domain, makeRoom } = await fullGuest(t)
  await type(b.driver, domain, 'w')
  await until(() => last(events).includes('disk-full'), 'paused by the full disk')
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'paused', cause: 'disk-full' })
  await b.driver.close()
  const after = b.open()
  assert.deepEqual((await after.adopt([domain])).get(domain.id), { kind: 'paused', cause: 'disk-full' })
  await makeRoom()
  // It need not wait until it is tried.
  await after.unpause(domain.id)
  await consoleText(after, domain, (text) => text.includes('W'))
  assert.ok((await stat(path)).blocks > 8)
  await sleep(1)
})

test(
  'a guest that waits for room still does after a save that failed and a snapshot of its memory; a reset ends the waiting',
  { skip },
  async (t) => {
    const { small, b, domain, makeRoom } = await fullGuest(t, { roomInterval: millis(200) })
    const waits = () => until(async () => waitsForRoom(await b.driver.state(domain.id)), 'it waits')
    await type(b.driver, domain, 'w')
    await waits()
    await assert.rejects(b.driver.save(domain.id, join(small, 'guest.save')), { code: 'exhausted' })
    await waits()
    await b.driver.snapshotMemory(domain.id, join(b.folder, 'guest.memory'))
    assert.deepEqual(await b.driver.state(domain.id), { kind: 'paused', cause: 'requested' })
    await b.driver.unpause(domain.id)
    await waits()
    await b.driver.reset(domain.id)
    await consoleText(b.driver, domain, (text) => text.split('boot\n').length === 3)
    // What was under way when it was reset may have stopped it once more.
    await until(async () => (await b.driver.state(domain.id)).kind === 'running', 'it runs')
    await type(b.driver, domain, 'w')
    await waits()
    await makeRoom()
    await consoleText(b.driver, domain, (text) => text.includes('W'))
  },
)

test('a data folder on a full disk fails the create, and nothing is left behind', { skip }, async (t) => {
  const small = await smallDisk(t, 64 * 1024)
  const b = await bench(t)
  const { bavail, bsize } = await statfs(small)
  await writeFile(join(small, 'filler'), new Uint8Array(bavail * bsize))
  const driver = b.open({ dataDir: join(small, 'data'), runDir: join(small, 'run') })
  const domain = await b.domain()
  await assert.rejects(driver.create(domain), { code: 'exhausted' })
  assert.deepEqual(await readdir(join(small, 'run')).catch(() => []), [])
})

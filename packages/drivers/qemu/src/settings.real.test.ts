/** Settings of the host's own, on a real kernel: that a cap holds, that weights share a CPU, that a vCPU stays where it was pinned. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { mib } from '@typevisor/base'
import { parseVolumeId, type DomainSettings } from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import { boundsOf, Cgroups } from './cgroups.ts'
import { planHardware } from './hardware.ts'
import { bench, microImage, running, testHost, until, type Bench } from './testing.ts'

const run = promisify(execFile)
const LIMIT = { timeoutMs: 20_000 }

const share = await new Cgroups(testHost().kernel).capability()
const mount = '/sys/fs/cgroup/cpu/typevisor'
// Version 2: `cgroups-v2.long.test.ts`.
const skip = share.can ? !existsSync('/sys/fs/cgroup/cpu/cpu.shares') && 'no cgroup v1 here' : share.reason

/** A Linux whose shell does nothing but count. */
async function busy(b: Bench, settings: DomainSettings = {}): Promise<DriverDomain> {
  const image = await microImage()
  const path = join(b.folder, `${Math.random().toString(36).slice(2)}.qcow2`)
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', image.rootDisk.path, '-F', image.rootDisk.format, path])
  const volumes = { root: { kind: 'file', path, format: 'qcow2' } } as const
  const domain = { ...(await b.domain({ memoryMib: 192, boot: image.boot, volumes })), settings }
  await b.driver.create(domain)
  await b.driver.unpause(domain.id)
  await until(
    () =>
      b.driver.exec(domain.id, { argv: ['/bin/true'], timeoutMs: 5000 }).then(
        () => true,
        () => false,
      ),
    'it boots',
    60_000,
  )
  await b.driver.exec(domain.id, {
    argv: ['/bin/sh', '-c', '(while :; do :; done) >/dev/null 2>&1 </dev/null &'],
    timeoutMs: 5000,
  })
  return domain
}

test("a limit is for the disks that are there: one that the guest let go of unseen is in nobody's way", async (t) => {
  const b = await bench(t)
  const domain = await running(b, { spec: { hotplugPortCount: 1 } })
  const planned = await b.driver.planDevice(domain, { kind: 'disk', name: 'data' }, parseVolumeId(`${domain.id}.data`))
  const withDisk = { ...domain, hardware: { ...domain.hardware, devices: [...domain.hardware.devices, ...planned] } }
  const diskLimits = [
    { disk: 'data', operationsPerSecond: 50 },
    { disk: 'root', operationsPerSecond: 100 },
  ]
  assert.deepEqual(await b.driver.applySettings(withDisk, { diskLimits }, LIMIT), { notes: [] })
  // One that is fixed to its place is always there.
  const [root] = domain.hardware.devices.filter(({ kind }) => kind === 'disk')
  assert.ok(root && root.kind === 'disk')
  const devices = [...domain.hardware.devices, { ...root, name: 'second', volume: parseVolumeId(`${domain.id}.second`) }]
  const wrong = { ...domain, hardware: { ...domain.hardware, devices } }
  await assert.rejects(b.driver.applySettings(wrong, { diskLimits }, LIMIT), { code: 'not_found' })
})

const cpuTimeNs = async ({ driver }: Bench, { id }: DriverDomain): Promise<number> =>
  ((await driver.statistics(id)).vcpus ?? []).reduce((sum, vcpu) => sum + (vcpu.cpuTimeNs ?? 0), 0)

/** Of one CPU, over some seconds. */
async function used(b: Bench, domains: readonly DriverDomain[], seconds: number): Promise<number[]> {
  const before = await Promise.all(domains.map((domain) => cpuTimeNs(b, domain)))
  const start = performance.now()
  await sleep(seconds * 1000)
  const after = await Promise.all(domains.map((domain) => cpuTimeNs(b, domain)))
  const ns = (performance.now() - start) * 1e6
  return after.map((time, at) => (time - (before[at] ?? 0)) / ns)
}

const groups = async (): Promise<string[]> =>
  (await readdir(mount, { withFileTypes: true }).catch(() => [])).map(({ name }) => name)

test(
  'a cap of 50 % holds of a busy guest, is taken away, and is in force from the next start on',
  { skip, timeout: 240_000 },
  async (t) => {
    const b = await bench(t)
    const domain = await busy(b)
    const capped = { ...domain, settings: { cpuCapPercent: 50 } }
    await b.driver.applySettings(domain, capped.settings, LIMIT)
    const [half = 0] = await used(b, [domain], 4)
    t.diagnostic(`capped at 50 %: ${(half * 100).toFixed(1)} %`)
    assert.ok(half < 0.55, `it used ${half} of a CPU`)
    await b.driver.applySettings(capped, { cpuCapPercent: 20 }, LIMIT)
    const [fifth = 0] = await used(b, [domain], 4)
    t.diagnostic(`capped at 20 %: ${(fifth * 100).toFixed(1)} %`)
    assert.ok(fifth < 0.23 && fifth < half, `it used ${fifth} of a CPU`)
    await b.driver.applySettings({ ...domain, settings: { cpuCapPercent: 20 } }, {}, LIMIT)
    const [free = 0] = await used(b, [domain], 2)
    t.diagnostic(`not capped: ${(free * 100).toFixed(1)} %`)
    assert.ok(free > fifth, `without a cap it used ${free} of a CPU`)
    await b.driver.destroy(domain.id)
    assert.ok(!(await groups()).includes(domain.id), 'its group is gone with it')
    await b.driver.create(capped)
    assert.equal((await readFile(join(mount, domain.id, 'cpu.cfs_quota_us'), 'utf8')).trim(), '50000')
  },
)

test(
  'weights of 1 to 3 share one CPU as 1 to 3; each vCPU stays on the CPU that it is pinned to',
  { skip: skip || (cpus().length < 2 && 'one CPU'), timeout: 240_000 },
  async (t) => {
    const b = await bench(t)
    const pinned = { affinityHard: [[0]] }
    const domains = [await busy(b, { ...pinned, cpuWeight: 100 }), await busy(b, { ...pinned, cpuWeight: 300 })]
    const [one = 0, three = 0] = await used(b, domains, 6)
    t.diagnostic(
      `weights of 1 to 3: ${(one * 100).toFixed(1)} % and ${(three * 100).toFixed(1)} %, ${(three / one).toFixed(2)} times`,
    )
    assert.ok(three / one > 2.2 && three / one < 4, `they share as 1 to ${three / one}`)
    assert.ok(one + three < 1.05, 'on one CPU')
    for (const domain of domains) {
      assert.deepEqual(await allowed(domain), ['0'])
      const settings = { ...domain.settings, affinityHard: [[1]] }
      await b.driver.applySettings(domain, settings, LIMIT)
      assert.deepEqual(await allowed(domain), ['1'])
    }
  },
)

/** On which CPUs the vCPUs' threads may run, as the kernel says. They are those in the domain's group. */
async function allowed({ id }: DriverDomain): Promise<string[]> {
  const tids = (await readFile(join(mount, id, 'tasks'), 'utf8')).trim().split('\n')
  return Promise.all(
    tids.map(async (tid) => /^Cpus_allowed_list:\s*(\S+)/m.exec(await readFile(`/proc/${tid}/status`, 'utf8'))?.[1] ?? ''),
  )
}

async function killed(b: Bench, domain: DriverDomain): Promise<void> {
  const pid = Number(await readFile(join(b.folder, 'run', domain.id, 'qemu.pid'), 'utf8'))
  const { processes } = testHost()
  const identity = await processes.identity(pid)
  process.kill(pid, 'SIGKILL')
  if (identity) await processes.waitExit(identity, { signal: AbortSignal.timeout(10_000) })
}

test(
  'the group of a guest whose process was killed is swept, watched or not',
  { skip, timeout: 120_000 },
  async (t: TestContext) => {
    const b = await bench(t)
    const [watched, unwatched] = [await b.domain(), await b.domain()]
    for (const domain of [watched, unwatched]) await b.driver.create({ ...domain, settings: { cpuWeight: 50 } })
    for (const { id } of [watched, unwatched]) assert.ok((await groups()).includes(id))
    await killed(b, watched)
    await until(async () => !(await groups()).includes(watched.id), 'the group of one that was watched goes')
    await b.driver.close()
    await killed(b, unwatched)
    await b.open().adopt([watched, unwatched])
    assert.ok(!(await groups()).includes(unwatched.id), 'the group of one that nobody watched goes at the next adoption')
  },
)

test('a guest without an agent is told of, and one without virtio-mem does not take what is plugged', async (t) => {
  const b = await bench(t)
  const domain = await b.domain()
  const spec = { ...domain.spec, vcpuCountMax: 2, memoryBytesMax: mib(64) }
  const grows = { ...domain, spec, hardware: planHardware(domain.id, spec, [disk(domain)]) }
  await b.driver.create(grows)
  await b.driver.unpause(domain.id)
  const { notes } = await b.driver.applySettings(grows, { vcpuCount: 2 }, LIMIT)
  assert.match(
    notes.join(),
    /^the vCPUs are there; that they are on in the guest its agent cannot say: .*no agent runs in the guest/,
  )
  assert.equal((await b.driver.statistics(domain.id)).vcpus?.length, 2)
  const settings = { vcpuCount: 2, memoryBytes: mib(64) }
  await assert.rejects(b.driver.applySettings({ ...grows, settings: { vcpuCount: 2 } }, settings, { timeoutMs: 300 }), {
    code: 'timeout',
    message: /the guest has 0 B in time, want 32 MiB; it takes part with a kernel that has virtio-mem/,
  })
  await b.driver.applySettings({ ...grows, settings }, { vcpuCount: 2 }, LIMIT)
  assert.equal((await b.driver.state(domain.id)).kind, 'running')
})

const disk = ({ hardware }: DriverDomain) => {
  const found = hardware.devices.find((device) => device.kind === 'disk')
  assert.ok(found?.kind === 'disk')
  return { name: found.name, volume: found.volume, readOnly: false }
}

test('CPUs that the host has not are refused, naming those that it has', async (t) => {
  const b = await bench(t)
  const domain = await b.domain()
  await b.driver.create(domain)
  await assert.rejects(b.driver.applySettings(domain, { affinityHard: [[0, 4000]] }, LIMIT), {
    code: 'invalid',
    message: /affinityHard: got 0,4000, want CPUs of the host: 0/,
  })
})

test('huge pages that the host has not set aside are refused, with what to do', async (t) => {
  const free = Number(/HugePages_Free:\s*(\d+)/.exec(await readFile('/proc/meminfo', 'utf8'))?.[1])
  if (free >= 16) return t.skip('this host has huge pages free')
  const b = await bench(t)
  const domain = await b.domain()
  const huge = { ...domain, spec: { ...domain.spec, hugePages: true } }
  await assert.rejects(b.driver.create(huge), {
    code: 'exhausted',
    message: /16 huge pages of 2 MiB wanted.*sysctl vm\.nr_hugepages=\d+/,
  })
  assert.equal((await b.driver.state(domain.id)).kind, 'gone')
})

test('a QEMU is held to its memory and its threads, and nothing is left of that behind it', { skip }, async (t) => {
  const b = await bench(t)
  const domain = await b.domain()
  await b.driver.create(domain)
  const pid = (await readFile(join(b.folder, 'run', domain.id, 'qemu.pid'), 'utf8')).trim()
  const { memoryBytes, threadCount } = boundsOf(domain.spec, 'tcg')
  for (const [controller, file, limit] of [
    ['memory', 'memory.limit_in_bytes', memoryBytes],
    ['pids', 'pids.max', threadCount],
  ] as const) {
    const group = `/sys/fs/cgroup/${controller}/typevisor/${domain.id}`
    assert.equal(Number(await readFile(`${group}/${file}`, 'utf8')), limit)
    assert.equal((await readFile(`${group}/cgroup.procs`, 'utf8')).trim(), pid)
  }
  await b.driver.destroy(domain.id)
  for (const controller of ['memory', 'pids'])
    assert.equal(existsSync(`/sys/fs/cgroup/${controller}/typevisor/${domain.id}`), false)
})

test('a guest with Secure Boot under TCG is given no vCPU while it runs, and says so', async (t) => {
  const b = await bench(t)
  const domain = await b.domain({ memoryMib: 256, spec: { firmware: 'uefi-secure', vcpuCountMax: 2 } })
  const { firmware } = (await b.driver.capabilities()).guests?.['x86_64'] ?? {}
  if (firmware?.['uefi-secure']?.can !== true) return t.skip('no firmware with Secure Boot here')
  await b.driver.create(domain)
  await assert.rejects(b.driver.applySettings(domain, { vcpuCount: 2 }, LIMIT), { code: 'unsupported', message: /Secure Boot/ })
  await b.driver.applySettings(domain, { vcpuCount: 1 }, LIMIT)
})

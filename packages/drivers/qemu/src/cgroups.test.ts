import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { parseDomainId } from '@typevisor/model'
import { Cgroups } from './cgroups.ts'
import type { KernelFiles } from './ports.ts'
import { testId } from './testing.ts'

const V1 =
  '33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n35 31 0:32 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n'
const V2 = '30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n'

/** A hierarchy as the kernel keeps it: a folder comes with its files, a thread is in one group, and one with somebody in it stays. */
class Kernel implements KernelFiles {
  readonly folders = new Map<string, Map<string, string>>()
  readonly written: string[] = []
  denied: string | null = null
  readonly #mount: string
  readonly #files: readonly string[]

  readonly version: 1 | 2 | null
  readonly mounts: string

  constructor(version: 1 | 2 | null, mounts = version === 1 ? V1 : version === 2 ? V2 : '') {
    this.version = version
    this.mounts = mounts
    this.#mount = version === 1 ? '/sys/fs/cgroup/cpu' : '/sys/fs/cgroup'
    this.#files =
      version === 1
        ? ['tasks', 'cpu.shares', 'cpu.cfs_period_us', 'cpu.cfs_quota_us']
        : [
            'cgroup.procs',
            'cgroup.threads',
            'cgroup.type',
            'cgroup.subtree_control',
            'cpu.weight',
            'cpu.max',
            'memory.max',
            'pids.max',
          ]
    this.#make(this.#mount)
    if (version === 1)
      for (const name of ['memory', 'pids'])
        this.#make(`/sys/fs/cgroup/${name}`, ['cgroup.procs', 'memory.limit_in_bytes', 'pids.max'])
  }
  #make(path: string, files = [...(this.folders.get(this.#split(path)[0])?.keys() ?? this.#files)]): void {
    this.folders.set(path, new Map(files.map((name) => [name, ''])))
  }
  #split(path: string): [string, string] {
    const at = path.lastIndexOf('/')
    return [path.slice(0, at), path.slice(at + 1)]
  }
  async read(path: string): Promise<string | null> {
    if (path === '/proc/self/mountinfo') return this.mounts
    if (path === '/sys/fs/cgroup/cgroup.controllers') return this.version === 2 ? 'cpuset cpu io memory pids\n' : null
    if (path === '/sys/fs/cgroup/unified/cgroup.controllers') return 'hugetlb\n'
    const [folder, name] = this.#split(path)
    return this.folders.get(folder)?.get(name) ?? null
  }
  async write(path: string, text: string): Promise<void> {
    const [folder, name] = this.#split(path)
    const files = this.folders.get(folder)
    if (!files?.has(name)) throw new Fault('not_found', `write ${path}: no such file`)
    if (name === 'cgroup.threads' && files.get('cgroup.type') !== 'threaded')
      throw new Fault('invalid', `write ${path}: EOPNOTSUPP`)
    this.written.push(`${path.replace(`${this.#mount}/`, '')} ${text}`)
    if (name !== 'tasks' && name !== 'cgroup.threads' && name !== 'cgroup.procs') return void files.set(name, text)
    for (const other of this.folders.values()) {
      const left = (other.get(name) ?? '').split(' ').filter((each) => each !== text && each !== '')
      if (other.has(name)) other.set(name, left.join(' '))
    }
    files.set(name, `${files.get(name) ?? ''} ${text}`.trim())
  }
  async whyNotWritable(path: string): Promise<string | null> {
    return path === this.denied ? 'EACCES' : null
  }
  async isFolder(path: string): Promise<boolean> {
    return this.folders.has(path)
  }
  async makeFolder(path: string): Promise<boolean> {
    if (this.folders.has(path)) return false
    if (!this.folders.has(this.#split(path)[0])) throw new Fault('not_found', `create ${path}: its parent is not there`)
    this.#make(path)
    return true
  }
  async removeFolder(path: string): Promise<void> {
    const files = this.folders.get(path)
    if (!files) return
    const hasChild = [...this.folders.keys()].some((each) => each.startsWith(`${path}/`))
    const isHeld = ['tasks', 'cgroup.threads', 'cgroup.procs'].some((name) => (files.get(name) ?? '') !== '')
    if (hasChild || isHeld) throw new Fault('busy', `remove ${path}: EBUSY`)
    this.folders.delete(path)
  }
  async list(path: string): Promise<readonly string[]> {
    return [...this.folders.keys()].filter((each) => this.#split(each)[0] === path).map((each) => this.#split(each)[1])
  }
  end(...names: string[]): void {
    for (const files of this.folders.values())
      for (const name of ['tasks', 'cgroup.threads', 'cgroup.procs'])
        if (names.includes(files.get(name) ?? '-')) files.set(name, '')
  }
}

const ID = parseDomainId(testId())

test('v1: shares and quota are of one group, whose tasks are the vCPUs; twice is once', async () => {
  const kernel = new Kernel(1)
  const cgroups = new Cgroups(kernel)
  assert.deepEqual(await cgroups.capability(), { can: true })
  await cgroups.apply(ID, 10, [11, 12], { weight: 300, capPercent: 150 })
  await cgroups.apply(ID, 10, [11, 12], { weight: 300, capPercent: 150 })
  const group = `/sys/fs/cgroup/cpu/typevisor/${ID}`
  assert.deepEqual(Object.fromEntries(kernel.folders.get(group) ?? []), {
    tasks: '11 12',
    'cpu.shares': '3072',
    'cpu.cfs_period_us': '100000',
    'cpu.cfs_quota_us': '150000',
  })
  await cgroups.apply(ID, 10, [11], { weight: 1, capPercent: 0 })
  assert.deepEqual(
    ['cpu.shares', 'cpu.cfs_quota_us'].map((name) => kernel.folders.get(group)?.get(name)),
    ['10', '-1'],
  )
})

test('v2: QEMU is the domain of a threaded subtree; the weight is of both, the cap of the vCPUs alone', async () => {
  const kernel = new Kernel(2)
  const cgroups = new Cgroups(kernel)
  assert.deepEqual(await cgroups.capability(), { can: true })
  await cgroups.apply(ID, 10, [11, 12], { weight: 300, capPercent: 50 })
  assert.deepEqual(kernel.written, [
    'cgroup.subtree_control +cpu',
    'typevisor/cgroup.subtree_control +cpu',
    `typevisor/${ID}/cgroup.procs 10`,
    `typevisor/${ID}/vcpus/cgroup.type threaded`,
    `typevisor/${ID}/cgroup.subtree_control +cpu`,
    `typevisor/${ID}/cpu.weight 300`,
    `typevisor/${ID}/vcpus/cpu.max 50000 100000`,
    `typevisor/${ID}/vcpus/cgroup.threads 11`,
    `typevisor/${ID}/vcpus/cgroup.threads 12`,
  ])
  await cgroups.apply(ID, 10, [11, 12], { weight: 300, capPercent: 0 })
  assert.equal(kernel.folders.get(`/sys/fs/cgroup/typevisor/${ID}/vcpus`)?.get('cpu.max'), 'max 100000')
})

test('v1: the process is in a group of each hierarchy, with its bounds', async () => {
  const kernel = new Kernel(1)
  const cgroups = new Cgroups(kernel)
  for (let again = 0; again < 2; again += 1) await cgroups.bound(ID, 10, { memoryBytes: 1_000_000, threadCount: 300 })
  const of = (name: string) => Object.fromEntries(kernel.folders.get(`/sys/fs/cgroup/${name}/typevisor/${ID}`) ?? [])
  assert.deepEqual(of('memory'), { 'cgroup.procs': '', 'memory.limit_in_bytes': '1000000', 'pids.max': '' })
  assert.deepEqual(of('pids'), { 'cgroup.procs': '10', 'memory.limit_in_bytes': '', 'pids.max': '300' })
  kernel.end('10')
  assert.deepEqual(await cgroups.sweep(), [ID])
  assert.deepEqual(
    [...kernel.folders.keys()],
    ['cpu', 'memory', 'pids'].map((name) => `/sys/fs/cgroup/${name}`),
  )
})

test('v2: bounds are of the group that weight and cap have too', async () => {
  const kernel = new Kernel(2)
  const cgroups = new Cgroups(kernel)
  await cgroups.bound(ID, 10, { memoryBytes: 1_000_000, threadCount: 300 })
  await cgroups.apply(ID, 10, [11], { weight: 100, capPercent: 50 })
  const group = kernel.folders.get(`/sys/fs/cgroup/typevisor/${ID}`)
  assert.deepEqual(
    ['memory.max', 'pids.max', 'cpu.weight', 'cgroup.procs'].map((name) => group?.get(name)),
    ['1000000', '300', '100', '10'],
  )
  kernel.end('10', '11')
  assert.deepEqual(await cgroups.sweep(), [ID])
})

for (const version of [1, 2] as const) {
  test(`v${version}: nothing is left behind the process, and what is in use or of somebody else stays`, async () => {
    const kernel = new Kernel(version)
    const cgroups = new Cgroups(kernel)
    const [live, dead] = [parseDomainId(testId()), parseDomainId(testId())]
    const before = [...kernel.folders.keys()]
    await cgroups.apply(live, 10, [11], { weight: 100, capPercent: 0 })
    await cgroups.apply(dead, 20, [21], { weight: 100, capPercent: 0 })
    await kernel.makeFolder(`${before[0]}/typevisor/notes`)
    await assert.rejects(cgroups.remove(live), { code: 'busy' })
    kernel.end('20', '21')
    assert.deepEqual(await cgroups.sweep(), [dead])
    assert.deepEqual(await cgroups.sweep(), [])
    kernel.end('10', '11')
    await cgroups.remove(live)
    await cgroups.remove(live)
    await kernel.removeFolder(`${before[0]}/typevisor/notes`)
    await cgroups.apply(live, 10, [], { weight: 100, capPercent: 0 })
    kernel.end('10')
    await cgroups.remove(live)
    assert.deepEqual([...kernel.folders.keys()], before)
  })
}

test('a sweep between making the group and filling it costs a second attempt', async () => {
  const kernel = new Kernel(1)
  const cgroups = new Cgroups(kernel)
  const write = kernel.write.bind(kernel)
  let isSwept = false
  kernel.write = async (path, text) => {
    if (path.endsWith('/tasks') && !isSwept) {
      isSwept = true
      assert.deepEqual(await cgroups.sweep(), [ID])
    }
    await write(path, text)
  }
  await cgroups.apply(ID, 10, [11], { weight: 100, capPercent: 20 })
  assert.equal(kernel.folders.get(`/sys/fs/cgroup/cpu/typevisor/${ID}`)?.get('tasks'), '11')
})

test('what is missing is named: no controller, or no right to make a group', async () => {
  const none = new Cgroups(new Kernel(null, V1.split('\n')[1]))
  const reason = 'this host has no cgroup hierarchy with the controller `cpu`'
  assert.deepEqual(await none.capability(), { can: false, reason })
  await assert.rejects(none.apply(ID, 1, [], { weight: 1, capPercent: 0 }), {
    code: 'unsupported',
    message: /no cgroup hierarchy/,
  })
  await none.remove(ID)
  const kernel = new Kernel(1)
  kernel.denied = '/sys/fs/cgroup/cpu'
  const can = await new Cgroups(kernel).capability()
  assert.match(
    can.can ? '' : can.reason,
    /^cgroup v1: \/sys\/fs\/cgroup\/cpu cannot be written \(EACCES\); run the agent as root, or/,
  )
  // Given away by root.
  await kernel.makeFolder('/sys/fs/cgroup/cpu/typevisor')
  assert.deepEqual(await new Cgroups(kernel).capability(), { can: true })
})

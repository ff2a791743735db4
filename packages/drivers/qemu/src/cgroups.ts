/**
 * What the kernel holds a domain to, by control groups of either version. Weight and cap of its vCPUs:
 *
 *   v1   cpu/typevisor/<id>                 cpu.shares, cpu.cfs_quota_us; its tasks are the vCPUs' threads
 *   v2   typevisor/<id>                     cpu.weight; QEMU's process, the domain of a threaded subtree
 *        typevisor/<id>/vcpus (threaded)    cpu.max; the vCPUs' threads
 *
 * and memory and threads of its QEMU, so that one that runs wild takes itself down and not the host:
 *
 *   v1   memory/typevisor/<id>, pids/typevisor/<id>    memory.limit_in_bytes, pids.max
 *   v2   typevisor/<id>                                memory.max, pids.max
 *
 * The cap is of the vCPUs alone: the monitor and the disks of a capped guest answer as before. One group a domain and hierarchy, named by its
 * id, is made when it is first wanted, found again by whoever comes next, and removed behind the domain's process. An empty one is nobody's:
 * `sweep` removes it, and whoever was about to use it makes it once more.
 *
 * References: cgroups(7); Linux Documentation/scheduler/sched-bwc.rst, admin-guide/cgroup-v2.rst ("Threads", "CPU").
 */
import { Fault, gib, toFault } from '@typevisor/base'
import { isUuid, type DomainId, type DomainSpec } from '@typevisor/model'
import type { Capability } from '@typevisor/toolstack'
import type { KernelFiles } from './ports.ts'

export const CPU_WEIGHT_DEFAULT = 100

export interface CpuShare {
  /** As cgroup v2 counts: 1 to 10000. */
  readonly weight: number
  /** Percent of one CPU; 0: none. */
  readonly capPercent: number
}

export interface ProcessBounds {
  readonly memoryBytes: number
  readonly threadCount: number
}

/** QEMU's own: disk caches, screen, buffers of a migration, and under TCG up to 1 GiB of translated code. */
const OVERHEAD = { kvm: gib(1), tcg: gib(2) } as const
/** QEMU's own: 64 workers of disks, as many of a migration's channels as are asked for, the screen's, the monitor's. */
const THREADS_BESIDE_VCPUS = 256

/** Far above what an honest one uses. */
export const boundsOf = (spec: DomainSpec, accelerator: 'tcg' | 'kvm'): ProcessBounds => ({
  memoryBytes: (spec.memoryBytesMax ?? spec.memoryBytes) + OVERHEAD[accelerator],
  threadCount: (spec.vcpuCountMax ?? spec.vcpuCount) + THREADS_BESIDE_VCPUS,
})

type Controller = 'cpu' | 'memory' | 'pids'
type Hierarchy = { readonly version: 1 | 2; readonly mount: string }
type Found = Hierarchy | { readonly version: null; readonly reason: string }

const FOLDER = 'typevisor'
const PERIOD_US = 100_000
const MAKE_ATTEMPTS = 3

const isCode = (error: unknown, ...codes: string[]): boolean => error instanceof Fault && codes.includes(error.code)

export class Cgroups {
  readonly #files: KernelFiles

  constructor(files: KernelFiles) {
    this.#files = files
  }

  async capability(): Promise<Capability> {
    const found = await this.#find('cpu')
    if (found.version === null) return { can: false, reason: found.reason }
    const { mount } = found
    const folder = `${mount}/${FOLDER}`
    const needed = found.version === 1 ? [folder] : [folder, `${mount}/cgroup.procs`, `${mount}/cgroup.subtree_control`]
    for (const path of needed) {
      const at = path === folder && !(await this.#files.isFolder(folder)) ? mount : path
      const reason = await this.#files.whyNotWritable(at)
      if (reason !== null)
        return {
          can: false,
          reason: `cgroup v${found.version}: ${at} cannot be written (${reason}); run the agent as root, or have root make ${folder} and give it to the agent's user`,
        }
    }
    return { can: true }
  }

  /**
   * Puts the threads into the domain's group and sets its share. Idempotent.
   * @throws Fault `unsupported` where the host has no such controller, or the one of whatever the kernel refuses.
   */
  async apply(id: DomainId, pid: number, tids: readonly number[], share: CpuShare): Promise<void> {
    const found = await this.#find('cpu')
    if (found.version === null) throw new Fault('unsupported', `CPU weight and cap: ${found.reason}`)
    await this.#insist(() =>
      found.version === 1 ? this.#applyV1(found, id, tids, share) : this.#applyV2(found, id, pid, tids, share),
    )
  }

  /**
   * Puts the process into the domain's groups and sets its bounds. Idempotent.
   * @throws Fault `unsupported` where the host has no such controllers, or the one of whatever the kernel refuses.
   */
  async bound(id: DomainId, pid: number, { memoryBytes, threadCount }: ProcessBounds): Promise<void> {
    for (const [controller, limit] of [
      ['memory', memoryBytes],
      ['pids', threadCount],
    ] as const) {
      const found = await this.#find(controller)
      if (found.version === null) throw new Fault('unsupported', `bounds of a process: ${found.reason}`)
      const { version, mount } = found
      await this.#insist(async () => {
        if (version === 2) await this.#enable(mount, controller)
        const group = await this.#makeGroup(mount, id)
        const file = controller === 'pids' ? 'pids.max' : version === 1 ? 'memory.limit_in_bytes' : 'memory.max'
        await this.#write(`${group}/${file}`, String(limit))
        await this.#write(`${group}/cgroup.procs`, String(pid))
      })
    }
  }

  async #insist(work: () => Promise<void>): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await work()
      } catch (error) {
        // Somebody's sweep was there between making and filling it.
        if (attempt >= MAKE_ATTEMPTS || !isCode(error, 'not_found')) throw error
      }
    }
  }

  /** Of a domain without a process. None there is fine. */
  async remove(id: DomainId): Promise<void> {
    await this.#removeFrom(await this.#mounts(), id)
  }

  async #removeFrom(mounts: readonly string[], id: DomainId): Promise<void> {
    for (const mount of mounts) {
      const folder = `${mount}/${FOLDER}`
      if (!(await this.#files.isFolder(folder))) continue
      await this.#files.removeFolder(`${folder}/${id}/vcpus`)
      await this.#files.removeFolder(`${folder}/${id}`)
      // The last one closes the door.
      await this.#files.removeFolder(folder).catch(() => {})
    }
  }

  /** Of all hierarchies in which groups of ours may be. */
  async #mounts(): Promise<readonly string[]> {
    const found = await Promise.all((['cpu', 'memory', 'pids'] as const).map((controller) => this.#find(controller)))
    return [...new Set(found.flatMap((each) => (each.version === null ? [] : [each.mount])))]
  }

  /** Removes the groups in which nobody is. @returns whose they were. */
  async sweep(): Promise<DomainId[]> {
    const mounts = await this.#mounts()
    const names = await Promise.all(mounts.map((mount) => this.#files.list(`${mount}/${FOLDER}`)))
    const swept: DomainId[] = []
    for (const name of new Set(names.flat())) {
      if (!isUuid(name)) continue
      // The kernel removes no group that has somebody in it.
      const isGone = await this.#removeFrom(mounts, name as DomainId).then(
        () => true,
        () => false,
      )
      if (isGone) swept.push(name as DomainId)
    }
    return swept
  }

  async #applyV1({ mount }: Hierarchy, id: DomainId, tids: readonly number[], { weight, capPercent }: CpuShare): Promise<void> {
    const group = await this.#makeGroup(mount, id)
    await this.#write(`${group}/cpu.shares`, String(Math.max(2, Math.round((weight * 1024) / CPU_WEIGHT_DEFAULT))))
    await this.#write(`${group}/cpu.cfs_period_us`, String(PERIOD_US))
    await this.#write(`${group}/cpu.cfs_quota_us`, capPercent === 0 ? '-1' : String((capPercent * PERIOD_US) / 100))
    await this.#enter(`${group}/tasks`, tids)
  }

  async #applyV2(
    { mount }: Hierarchy,
    id: DomainId,
    pid: number,
    tids: readonly number[],
    { weight, capPercent }: CpuShare,
  ): Promise<void> {
    await this.#enable(mount, 'cpu')
    const group = await this.#makeGroup(mount, id)
    const vcpus = `${group}/vcpus`
    await this.#write(`${group}/cgroup.procs`, String(pid))
    if (await this.#files.makeFolder(vcpus)) await this.#write(`${vcpus}/cgroup.type`, 'threaded')
    await this.#write(`${group}/cgroup.subtree_control`, '+cpu')
    await this.#write(`${group}/cpu.weight`, String(weight))
    await this.#write(`${vcpus}/cpu.max`, `${capPercent === 0 ? 'max' : (capPercent * PERIOD_US) / 100} ${PERIOD_US}`)
    await this.#enter(`${vcpus}/cgroup.threads`, tids)
  }

  /** For the groups of domains, on version 2. */
  async #enable(mount: string, controller: Controller): Promise<void> {
    await this.#write(`${mount}/cgroup.subtree_control`, `+${controller}`)
    await this.#files.makeFolder(`${mount}/${FOLDER}`)
    await this.#write(`${mount}/${FOLDER}/cgroup.subtree_control`, `+${controller}`)
  }

  async #makeGroup(mount: string, id: DomainId): Promise<string> {
    await this.#files.makeFolder(`${mount}/${FOLDER}`)
    const group = `${mount}/${FOLDER}/${id}`
    await this.#files.makeFolder(group)
    return group
  }

  async #enter(path: string, tids: readonly number[]): Promise<void> {
    for (const tid of tids) await this.#write(path, String(tid))
  }

  async #write(path: string, text: string): Promise<void> {
    try {
      await this.#files.write(path, text)
    } catch (error) {
      const fault = toFault(error)
      throw new Fault(fault.code, `control group: write ${text} to ${path}: ${fault.message}`, { cause: error })
    }
  }

  /** Asked each time: it is two small files, and a hierarchy may be mounted meanwhile. */
  async #find(controller: Controller): Promise<Found> {
    const mounts = ((await this.#files.read('/proc/self/mountinfo')) ?? '').split('\n').flatMap((line) => {
      const [before = '', after = ''] = line.split(' - ')
      const mount = before.split(' ')[4]
      const [type = '', , options = ''] = after.split(' ')
      return mount === undefined ? [] : [{ mount: mount.replaceAll('\\040', ' '), type, options: options.split(',') }]
    })
    const first = mounts.find(({ type, options }) => type === 'cgroup' && options.includes(controller))
    if (first) return { version: 1, mount: first.mount }
    for (const { mount } of mounts.filter(({ type }) => type === 'cgroup2')) {
      const controllers = (await this.#files.read(`${mount}/cgroup.controllers`)) ?? ''
      if (controllers.trim().split(' ').includes(controller)) return { version: 2, mount }
    }
    return { version: null, reason: `this host has no cgroup hierarchy with the controller \`${controller}\`` }
  }
}

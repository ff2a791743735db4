/**
 * Weight and cap of a domain's vCPUs, held by the kernel's `cpu` controller, of either version:
 *
 *   v1   cpu/typevisor/<id>                 cpu.shares, cpu.cfs_quota_us; its tasks are the vCPUs' threads
 *   v2   typevisor/<id>                     cpu.weight; QEMU's process, the domain of a threaded subtree
 *        typevisor/<id>/vcpus (threaded)    cpu.max; the vCPUs' threads
 *
 * The cap is of the vCPUs alone: the monitor and the disks of a capped guest answer as before. One group a domain, named by its id, is made
 * when the first weight or cap is set, found again by whoever comes next, and removed behind the domain's process. An empty one is nobody's:
 * `sweep` removes it, and whoever was about to use it makes it once more.
 *
 * References: cgroups(7); Linux Documentation/scheduler/sched-bwc.rst, admin-guide/cgroup-v2.rst ("Threads", "CPU").
 */
import { Fault, toFault } from '@typevisor/base'
import { isUuid, type DomainId } from '@typevisor/model'
import type { Capability } from '@typevisor/toolstack'
import type { KernelFiles } from './ports.ts'

export const CPU_WEIGHT_DEFAULT = 100

export interface CpuShare {
  /** As cgroup v2 counts: 1 to 10000. */
  readonly weight: number
  /** Percent of one CPU; 0: none. */
  readonly capPercent: number
}

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
    const found = await this.#find()
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
    const found = await this.#find()
    if (found.version === null) throw new Fault('unsupported', `CPU weight and cap: ${found.reason}`)
    for (let attempt = 1; ; attempt += 1) {
      try {
        await (found.version === 1 ? this.#applyV1(found, id, tids, share) : this.#applyV2(found, id, pid, tids, share))
        return
      } catch (error) {
        // Somebody's sweep was there between making and filling it.
        if (attempt >= MAKE_ATTEMPTS || !isCode(error, 'not_found')) throw error
      }
    }
  }

  /** Of a domain without a process. None there is fine. */
  async remove(id: DomainId): Promise<void> {
    const found = await this.#find()
    if (found.version === null) return
    const folder = `${found.mount}/${FOLDER}`
    if (!(await this.#files.isFolder(folder))) return
    await this.#files.removeFolder(`${folder}/${id}/vcpus`)
    await this.#files.removeFolder(`${folder}/${id}`)
    // The last one closes the door.
    await this.#files.removeFolder(folder).catch(() => {})
  }

  /** Removes the groups in which nobody is. @returns whose they were. */
  async sweep(): Promise<DomainId[]> {
    const found = await this.#find()
    if (found.version === null) return []
    const swept: DomainId[] = []
    for (const name of await this.#files.list(`${found.mount}/${FOLDER}`)) {
      if (!isUuid(name)) continue
      // The kernel removes no group that has somebody in it.
      const isGone = await this.remove(name as DomainId).then(
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
    await this.#write(`${mount}/cgroup.subtree_control`, '+cpu')
    await this.#files.makeFolder(`${mount}/${FOLDER}`)
    await this.#write(`${mount}/${FOLDER}/cgroup.subtree_control`, '+cpu')
    const group = await this.#makeGroup(mount, id)
    const vcpus = `${group}/vcpus`
    await this.#write(`${group}/cgroup.procs`, String(pid))
    if (await this.#files.makeFolder(vcpus)) await this.#write(`${vcpus}/cgroup.type`, 'threaded')
    await this.#write(`${group}/cgroup.subtree_control`, '+cpu')
    await this.#write(`${group}/cpu.weight`, String(weight))
    await this.#write(`${vcpus}/cpu.max`, `${capPercent === 0 ? 'max' : (capPercent * PERIOD_US) / 100} ${PERIOD_US}`)
    await this.#enter(`${vcpus}/cgroup.threads`, tids)
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
      throw new Fault(fault.code, `CPU weight and cap: write ${text} to ${path}: ${fault.message}`, { cause: error })
    }
  }

  /** Asked each time: it is two small files, and a hierarchy may be mounted meanwhile. */
  async #find(): Promise<Found> {
    const mounts = ((await this.#files.read('/proc/self/mountinfo')) ?? '').split('\n').flatMap((line) => {
      const [before = '', after = ''] = line.split(' - ')
      const mount = before.split(' ')[4]
      const [type = '', , options = ''] = after.split(' ')
      return mount === undefined ? [] : [{ mount: mount.replaceAll('\\040', ' '), type, options: options.split(',') }]
    })
    const first = mounts.find(({ type, options }) => type === 'cgroup' && options.includes('cpu'))
    if (first) return { version: 1, mount: first.mount }
    for (const { mount } of mounts.filter(({ type }) => type === 'cgroup2')) {
      const controllers = (await this.#files.read(`${mount}/cgroup.controllers`)) ?? ''
      if (controllers.trim().split(' ').includes('cpu')) return { version: 2, mount }
    }
    return { version: null, reason: 'this host has no cgroup hierarchy with the controller `cpu`' }
  }
}

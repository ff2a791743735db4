/**
 * Virtual processors that come and go: QEMU's slots for them, the guest's own switch for each, and the threads that they are on the host.
 *
 *   plug     device_add into the lowest free slots --> the guest sees them (ACPI) --> its agent turns them on, as nobody else does in a guest
 *            without a rule for it
 *   unplug   device_del of the highest --> the guest lets go --> the slot is free
 *
 * Slots are filled from the lowest up, so that a count says which are there: a machine that is made anew with so many is the same machine.
 * Reference: QEMU 7.2 qapi/machine.json, docs/cpu-hotplug.rst.
 */
import { Fault, millis, toFault, type Clock } from '@typevisor/base'
import type { VcpuStatistics } from '@typevisor/model'
import type { Machine } from './machine.ts'
import type { QemuHost } from './ports.ts'
import { isObject, listOf, numberOf, objectOf, textOf, type JsonObject } from './read-json.ts'

/**
 * QEMU 7.2 keeps the memory listener of a vCPU that has gone under TCG (softmmu/physmem.c: `cpu_address_space_init` registers `tcg_commit`,
 * and nobody takes it away), and writes to freed memory at the next change of the memory map: a save, or a reboot, ends it.
 */
export const TCG_KEEPS_VCPUS = 'QEMU under TCG does not survive that a vCPU is taken back; stop the guest first'

export interface GuestWork {
  readonly machine: Machine
  readonly clock: Clock
  readonly signal: AbortSignal
  /** `clock.monotonic` at which the guest has had its time. */
  readonly end: number
}

const POLL = millis(100)

/** Waits until `isSo`; false: the guest's time is over. */
export async function untilGuest({ clock, end, signal }: GuestWork, isSo: () => Promise<boolean>): Promise<boolean> {
  while (!(await isSo())) {
    if (clock.monotonic() >= end) return false
    await clock.sleep(POLL, { signal })
  }
  return true
}

interface Slot {
  readonly type: string
  readonly props: JsonObject
  readonly core: number
  /** null: it is free. */
  readonly path: string | null
}

/** The lowest first. */
async function slotsOf({ machine, signal }: Pick<GuestWork, 'machine' | 'signal'>): Promise<Slot[]> {
  const answer = listOf(await machine.execute('query-hotpluggable-cpus', {}, { signal }))
  return answer
    .filter(isObject)
    .map((slot) => ({
      type: textOf(slot['type']) ?? '',
      props: objectOf(slot['props']),
      core: numberOf(objectOf(slot['props'])['core-id']) ?? 0,
      path: textOf(slot['qom-path']),
    }))
    .toSorted((a, b) => a.core - b.core)
}

/**
 * @returns what the guest has not taken up.
 * @throws Fault `conflict` when the guest does not run, `unsupported` when QEMU cannot take a vCPU back, `timeout` when it does not let go of one in time.
 */
export async function setVcpuCount(work: GuestWork, count: number): Promise<string[]> {
  const { machine, signal } = work
  const slots = await slotsOf(work)
  const there = slots.filter(({ path }) => path !== null)
  if (there.length !== count && machine.state.kind !== 'running')
    throw new Fault('conflict', `set ${machine.record.name}: vcpuCount: it is ${machine.state.kind}, want running`)
  if (there.length > count && objectOf(await machine.execute('query-kvm', {}, { signal }))['enabled'] !== true)
    throw new Fault('unsupported', `set ${machine.record.name}: vcpuCount: ${TCG_KEEPS_VCPUS}`)
  for (const { core, path } of there.slice(count).toReversed()) await unplug(work, core, path ?? '')
  for (const { type, props, core } of slots.filter(({ path }) => path === null).slice(0, Math.max(0, count - there.length)))
    await machine.execute('device_add', { driver: type, id: `cpu${core}`, ...(props as { [name: string]: number }) }, { signal })
  return there.length > count || machine.state.kind !== 'running' ? [] : await turnOn(work, count)
}

async function unplug(work: GuestWork, core: number, path: string): Promise<void> {
  const { machine, signal } = work
  await machine.execute('device_del', { id: path }, { signal })
  const isGone = async () => (await slotsOf(work)).some((slot) => slot.core === core && slot.path === null)
  if (!(await untilGuest(work, isGone)))
    throw new Fault('timeout', `set ${machine.record.name}: the guest did not let go of vCPU ${core} in time`)
}

/** Those that the guest knows and does not use. */
async function turnOn(work: GuestWork, count: number): Promise<string[]> {
  const { machine, signal } = work
  let isOn = 0
  try {
    const isDone = async () => {
      const known = listOf(await machine.agent.execute('guest-get-vcpus', {}, { signal })).filter(isObject)
      const off = known
        .filter((vcpu) => vcpu['online'] !== true)
        .map((vcpu) => ({ 'logical-id': numberOf(vcpu['logical-id']) ?? 0, online: true }))
      if (off.length > 0) await machine.agent.execute('guest-set-vcpus', { vcpus: off }, { signal })
      isOn = known.length - off.length
      return isOn >= count
    }
    if (await untilGuest(work, isDone)) return []
    return [`${isOn} of ${count} vCPUs are on in the guest`]
  } catch (error) {
    signal.throwIfAborted()
    const fault = toFault(error)
    if (!['unavailable', 'failed', 'timeout', 'busy'].includes(fault.code)) throw error
    return [`the vCPUs are there; that they are on in the guest its agent cannot say: ${fault.message}`]
  }
}

export interface VcpuThread {
  readonly index: number
  readonly tid: number
}

/** By vCPU; the numbers are of the host. */
export async function vcpuThreads(machine: Machine, signal?: AbortSignal): Promise<VcpuThread[]> {
  const answer = listOf(await machine.execute('query-cpus-fast', {}, { signal }))
  return answer
    .flatMap((vcpu) => {
      const { 'cpu-index': index, 'thread-id': tid } = objectOf(vcpu)
      return typeof index === 'number' && typeof tid === 'number' ? [{ index, tid }] : []
    })
    .toSorted((a, b) => a.index - b.index)
}

export async function vcpuStatistics(host: QemuHost, machine: Machine, signal?: AbortSignal): Promise<VcpuStatistics[]> {
  const threads = await vcpuThreads(machine, signal)
  return threads.map(({ index, tid }) => ({
    index,
    ...(host.processes.threadUsage(machine.process, tid) ?? { cpuTimeNs: null, waitTimeNs: null }),
  }))
}

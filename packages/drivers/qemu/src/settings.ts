/**
 * From settings to QEMU and the kernel: what is asked of the guest first (it may refuse), then what is the host's own affair.
 *
 *   vCPUs (`vcpus.ts`) --> plugged memory, balloon (`memory.ts`) --> weight and cap (`cgroups.ts`), affinity --> limits of disks
 *
 * A machine that is made with its settings has its vCPUs from the command line and asks for its plugged memory there; the rest is applied
 * before its first instruction.
 */
import { Fault, fieldFault, type Clock } from '@typevisor/base'
import {
  changedDriverSettings,
  firmwareOf,
  formatCpuList,
  isDetachable,
  memoryBytesOf,
  parseCpuList,
  pluggedBytesOf,
  DRIVER_SETTING_NAMES,
  vcpuCountOf,
  type CpuSet,
  type DomainSettings,
  type DriverSettingName,
} from '@typevisor/model'
import { assertSettable, type Capability, type DriverCapabilities, type DriverDomain } from '@typevisor/toolstack'
import { CPU_WEIGHT_DEFAULT, type Cgroups } from './cgroups.ts'
import { deviceIds } from './command-line.ts'
import type { Machine } from './machine.ts'
import { balloonOf, setPlugged } from './memory.ts'
import type { QemuHost } from './ports.ts'
import { setVcpuCount, vcpuThreads, type VcpuThread } from './vcpus.ts'

export interface SettingsContext {
  readonly host: QemuHost
  readonly clock: Clock
  readonly cgroups: Cgroups
  readonly machine: Machine
  readonly signal: AbortSignal
}

const CAN: Capability = { can: true }

export async function settingCapabilities(host: QemuHost, cgroups: Cgroups): Promise<DriverCapabilities['settings']> {
  const share = await cgroups.capability()
  const noAffinity = host.processes.whyNoAffinity()
  return {
    vcpuCount: CAN,
    memoryBytes: CAN,
    memoryTargetBytes: CAN,
    cpuWeight: share,
    cpuCapPercent: share,
    affinityHard: noAffinity === null ? CAN : { can: false, reason: noAffinity },
    affinitySoft: {
      can: false,
      reason: 'the scheduler of Linux knows CPUs that a thread may use, and none that it only prefers',
    },
    diskLimits: CAN,
  }
}

/** @throws Fault `unsupported` for a vCPU whose coming the guest would not survive. */
export function assertPluggable(
  { name, spec, settings: before }: DriverDomain,
  settings: DomainSettings,
  accelerator: string,
): void {
  if (accelerator !== 'tcg' || firmwareOf(spec) !== 'uefi-secure') return
  const [from, to] = [vcpuCountOf(spec, before), vcpuCountOf(spec, settings)]
  if (to > from)
    throw new Fault(
      'unsupported',
      `set ${name}: vcpuCount: under TCG a guest with Secure Boot stands still when a vCPU comes, whose firmware greets it in system management mode; stop it first`,
      { details: [{ path: 'vcpuCount', want: String(from), got: String(to) }] },
    )
}

/** @throws Fault `unsupported`, `invalid` or `timeout`; @returns what the guest has not taken up. */
export async function changeSettings(
  context: SettingsContext,
  domain: DriverDomain,
  settings: DomainSettings,
  timeoutMs: number,
): Promise<string[]> {
  const { machine, clock, signal, host, cgroups } = context
  const changed = new Set(changedDriverSettings(domain.settings ?? {}, settings))
  const can = await settingCapabilities(host, cgroups)
  assertSettable(machine.record.name, changed, settings, can)
  await assertAffinity(host, settings, changed)
  const work = { machine, clock, signal, end: clock.monotonic() + timeoutMs }
  const notes: string[] = []
  if (changed.has('vcpuCount')) notes.push(...(await setVcpuCount(work, vcpuCountOf(domain.spec, settings))))
  // A guest that is to have less is squeezed by the balloon when it has given back what was plugged, and the other way round.
  if (changed.has('memoryBytes')) {
    const isMore = memoryBytesOf(domain.spec, settings) > memoryBytesOf(domain.spec, domain.settings)
    if (!isMore) await setBalloon(context, domain, { ...settings, memoryBytes: memoryBytesOf(domain.spec, settings) })
    notes.push(...(await setPlugged(work, domain.hardware, pluggedBytesOf(domain.spec, settings))))
  }
  if (changed.has('memoryTargetBytes') || changed.has('memoryBytes')) await setBalloon(context, domain, settings)
  await setOnHost(context, domain, settings, changed)
  return notes
}

/** For a machine that was just made, and has not run. */
export async function beginSettings(context: SettingsContext, domain: DriverDomain): Promise<void> {
  const { settings = {} } = domain
  const given = new Set(DRIVER_SETTING_NAMES.filter((name) => settings[name] !== undefined))
  if (given.size === 0) return
  const can = await settingCapabilities(context.host, context.cgroups)
  assertSettable(context.machine.record.name, given, settings, can)
  await assertAffinity(context.host, settings, given)
  if (given.has('memoryTargetBytes')) await setBalloon(context, domain, settings)
  await setOnHost(context, domain, settings, given)
}

async function setBalloon({ machine, signal }: SettingsContext, domain: DriverDomain, settings: DomainSettings): Promise<void> {
  await machine.execute('balloon', { value: balloonOf(domain.spec, settings) }, { signal })
}

async function setOnHost(
  context: SettingsContext,
  domain: DriverDomain,
  settings: DomainSettings,
  changed: ReadonlySet<DriverSettingName>,
): Promise<void> {
  const { machine, host, cgroups, signal } = context
  const isChanged = (...names: DriverSettingName[]) => names.some((name) => changed.has(name))
  // A vCPU that is new has a thread of its own.
  const hasNew = changed.has('vcpuCount')
  const hasShare = settings.cpuWeight !== undefined || settings.cpuCapPercent !== undefined
  const threads = isChanged('vcpuCount', 'cpuWeight', 'cpuCapPercent', 'affinityHard') ? await vcpuThreads(machine, signal) : []
  if (isChanged('cpuWeight', 'cpuCapPercent') || (hasNew && hasShare)) {
    const { cpuWeight: weight = CPU_WEIGHT_DEFAULT, cpuCapPercent: capPercent = 0 } = settings
    const tids = threads.map(({ tid }) => tid)
    await cgroups.apply(domain.id, machine.process.pid, tids, { weight, capPercent })
  }
  if (isChanged('affinityHard') || (hasNew && settings.affinityHard)) await pin(host, threads, settings.affinityHard)
  if (changed.has('diskLimits')) await limitDisks(context, domain, settings)
}

const onlineCpus = async ({ kernel }: QemuHost): Promise<CpuSet> => {
  const text = await kernel.read('/sys/devices/system/cpu/online')
  return parseCpuList('/sys/devices/system/cpu/online', text ?? '0')
}

async function assertAffinity(
  host: QemuHost,
  { affinityHard }: DomainSettings,
  changed: ReadonlySet<DriverSettingName>,
): Promise<void> {
  if (!affinityHard || !changed.has('affinityHard')) return
  const online = await onlineCpus(host)
  for (const set of affinityHard) {
    const missing = set.filter((cpu) => !online.includes(cpu))
    if (missing.length === 0) continue
    const [got, want] = [formatCpuList(set), `CPUs of the host: ${formatCpuList(online)}`]
    throw fieldFault({ path: 'affinityHard', want, got })
  }
}

async function pin(host: QemuHost, threads: readonly VcpuThread[], sets: readonly CpuSet[] | undefined): Promise<void> {
  const online = await onlineCpus(host)
  threads.forEach(({ tid }, at) => host.processes.setThreadAffinity(tid, sets?.[at] ?? sets?.at(-1) ?? online))
}

async function limitDisks({ machine, signal }: SettingsContext, domain: DriverDomain, settings: DomainSettings): Promise<void> {
  for (const [device, id] of deviceIds(domain.hardware)) {
    if (device.kind !== 'disk') continue
    const limit = settings.diskLimits?.find(({ disk }) => disk === device.name)
    const { bytesPerSecond: bps = 0, operationsPerSecond: iops = 0 } = limit ?? {}
    const none = { bps_rd: 0, bps_wr: 0, iops_rd: 0, iops_wr: 0 }
    // The part of a virtio device that has the disk.
    const backend = `/machine/peripheral/${id}/virtio-backend`
    await machine.execute('block_set_io_throttle', { id: backend, bps, iops, ...none }, { signal }).catch((error: unknown) => {
      // A guest that was asked lets go of its disk when it likes, and nobody may have looked since.
      if (!isDetachable(device) || !(error instanceof Fault) || error.code !== 'not_found') throw error
    })
  }
}

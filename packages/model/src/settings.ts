/**
 * What of a domain may change while its guest runs. A setting that is absent is as the specification has it, or no limit at all.
 *
 * `memoryBytes` is what the guest's memory is in all: the specification's and what is plugged beside. `memoryTargetBytes` is how much of that
 * the guest is to do with; its balloon driver gives back the rest.
 */
import { fieldFault, type Bytes } from '@typevisor/base'
import type { DomainSpec } from './domain.ts'

/** Numbers of host CPUs, ascending. */
export type CpuSet = readonly number[]

/** Of one disk; absent: no limit. */
export interface DiskLimit {
  /** Name of the device, such as `root`. */
  readonly disk: string
  readonly bytesPerSecond?: number | undefined
  readonly operationsPerSecond?: number | undefined
}

export interface DomainSettings {
  readonly vcpuCount?: number
  readonly memoryBytes?: Bytes
  readonly memoryTargetBytes?: Bytes
  /** Share of the domain's vCPUs where CPUs are contended, from 1 to 10000; a domain without one has 100. */
  readonly cpuWeight?: number
  /** At most so much CPU time for all its vCPUs together, in percent of one CPU; 0: no limit. */
  readonly cpuCapPercent?: number
  /** CPUs that vCPU 0, 1, ... may run on; the last one is of all others too. */
  readonly affinityHard?: readonly CpuSet[]
  /** CPUs that they are to run on where these are free. */
  readonly affinitySoft?: readonly CpuSet[]
  readonly diskLimits?: readonly DiskLimit[]
  /** It is started again when its host was, if it ran then. Absent: it is not. */
  readonly autostart?: boolean
  /** Those of lower numbers are started first, of equal ones by name; absent: `AUTOSTART_ORDER_DEFAULT`. */
  readonly autostartOrder?: number
  /** Absent: `keep`. */
  readonly onCrash?: CrashAction
}

/**
 * When the guest panics or its process fails: it stays as it is, is powered off, or is started again; `dump-`: after a core dump of its memory,
 * where there is any left.
 */
export const CRASH_ACTIONS = ['keep', 'reboot', 'poweroff', 'dump-keep', 'dump-reboot', 'dump-poweroff'] as const
export type CrashAction = (typeof CRASH_ACTIONS)[number]
export const dumpsOnCrash = (action: CrashAction): boolean => action.startsWith('dump-')
export const restartsOnCrash = (action: CrashAction): boolean => action.endsWith('reboot')
export const endsOnCrash = (action: CrashAction): boolean => !action.endsWith('keep')

export const AUTOSTART_ORDER_DEFAULT = 100
export const AUTOSTART_ORDER_MAX = 1_000_000

/** Those that a driver brings about. */
export const DRIVER_SETTING_NAMES = [
  'vcpuCount',
  'memoryBytes',
  'memoryTargetBytes',
  'cpuWeight',
  'cpuCapPercent',
  'affinityHard',
  'affinitySoft',
  'diskLimits',
] as const satisfies readonly (keyof DomainSettings)[]
export type DriverSettingName = (typeof DRIVER_SETTING_NAMES)[number]

/** Those that the toolstack acts on by itself; no driver has to do with them. */
export const POLICY_NAMES = ['autostart', 'autostartOrder', 'onCrash'] as const satisfies readonly (keyof DomainSettings)[]

export const SETTING_NAMES = [...DRIVER_SETTING_NAMES, ...POLICY_NAMES]
export type SettingName = (typeof SETTING_NAMES)[number]

/** `reset`: those that are to be again as they were at the definition. A disk's limits take the place of those that it had. */
export interface SettingsPatch extends DomainSettings {
  readonly reset?: readonly SettingName[]
}

/** A domain cannot be squeezed below this. */
export const MEMORY_TARGET_BYTES_MIN = 32 * 1024 * 1024

type Sized = Pick<DomainSpec, 'vcpuCount' | 'memoryBytes'>
export const vcpuCountOf = (spec: Sized, settings: DomainSettings = {}): number => settings.vcpuCount ?? spec.vcpuCount
export const memoryBytesOf = (spec: Sized, settings: DomainSettings = {}): Bytes => settings.memoryBytes ?? spec.memoryBytes

/** What is plugged beside. */
export const pluggedBytesOf = (spec: Sized, settings: DomainSettings = {}): number =>
  memoryBytesOf(spec, settings) - spec.memoryBytes

export function patched(settings: DomainSettings, { reset = [], diskLimits, ...patch }: SettingsPatch): DomainSettings {
  const kept = Object.entries(settings).filter(([name]) => !reset.some((each) => each === name))
  const { diskLimits: old = [], ...rest } = Object.fromEntries(kept) as DomainSettings
  const others = old.filter(({ disk }) => !diskLimits?.some((limit) => limit.disk === disk))
  const limits = [...others, ...(diskLimits ?? []).filter((limit) => limit.bytesPerSecond || limit.operationsPerSecond)]
  const given = Object.entries(patch).filter(([, value]) => value !== undefined)
  return { ...rest, ...Object.fromEntries(given), ...(limits.length === 0 ? {} : { diskLimits: limits }) }
}

const changedOf =
  <N extends SettingName>(names: readonly N[]) =>
  (before: DomainSettings, after: DomainSettings): N[] =>
    names.filter((name) => JSON.stringify(before[name]) !== JSON.stringify(after[name]))

/** Those that are not the same in both. */
export const changedSettings = changedOf(SETTING_NAMES)
export const changedDriverSettings = changedOf(DRIVER_SETTING_NAMES)

/** What a new domain's settings begin with. */
export function policyOf({
  autostart,
  autostartOrder,
  onCrash,
}: { readonly [N in (typeof POLICY_NAMES)[number]]?: DomainSpec[N] | undefined }): DomainSettings {
  return {
    ...(autostart === undefined ? {} : { autostart }),
    ...(autostartOrder === undefined ? {} : { autostartOrder }),
    ...(onCrash === undefined ? {} : { onCrash }),
  }
}

/** What a saved guest's machine was, out of `then`; the host's own affairs are as they are now. */
export function machineSettings(now: DomainSettings, then: DomainSettings): DomainSettings {
  const { vcpuCount: _count, memoryBytes: _bytes, memoryTargetBytes: _target, ...host } = now
  const { vcpuCount, memoryBytes, memoryTargetBytes } = then
  return {
    ...host,
    ...(vcpuCount === undefined ? {} : { vcpuCount }),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
    ...(memoryTargetBytes === undefined ? {} : { memoryTargetBytes }),
  }
}

/** `disks`: by name; null: not known here. @throws Fault `invalid` naming the first setting that the domain cannot have. */
export function assertSettings(
  settings: DomainSettings,
  spec: Pick<DomainSpec, 'vcpuCount' | 'memoryBytes' | 'vcpuCountMax' | 'memoryBytesMax'>,
  disks: readonly string[] | null,
): void {
  const refuse = (path: string, got: unknown, want: string): never => {
    throw fieldFault({ path, want, got: String(got) })
  }
  const within = (path: SettingName, value: number | undefined, min: number, max: number, why = ''): void => {
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= min && value <= max))
      refuse(path, value, `${min === max ? min : `${min} to ${max}`}${why}`)
  }
  within('vcpuCount', settings.vcpuCount, 1, spec.vcpuCountMax ?? spec.vcpuCount, ', which vcpuCountMax at its creation allows')
  const { memoryBytes, memoryTargetBytes } = settings
  const memoryMax = spec.memoryBytesMax ?? spec.memoryBytes
  within('memoryBytes', memoryBytes, spec.memoryBytes, memoryMax, ', which memoryBytes and memoryBytesMax at its creation allow')
  const whole = (path: SettingName, value: number | undefined, unit: number): void => {
    if (value !== undefined && value % unit !== 0) refuse(path, value, `a multiple of ${unit}`)
  }
  whole('memoryBytes', memoryBytes === undefined ? undefined : memoryBytes - spec.memoryBytes, MEMORY_BLOCK_BYTES)
  // What is plugged is taken back by unplugging, and by nothing else.
  const total = memoryBytesOf(spec, settings)
  within(
    'memoryTargetBytes',
    memoryTargetBytes,
    total - spec.memoryBytes + MEMORY_TARGET_BYTES_MIN,
    total,
    ', of the memory that it has',
  )
  whole('memoryTargetBytes', memoryTargetBytes, 1024 * 1024)
  within('cpuWeight', settings.cpuWeight, 1, 10_000)
  within('cpuCapPercent', settings.cpuCapPercent, 0, 100_000)
  within('autostartOrder', settings.autostartOrder, 0, AUTOSTART_ORDER_MAX)
  const { onCrash } = settings
  if (onCrash !== undefined && !CRASH_ACTIONS.includes(onCrash)) refuse('onCrash', onCrash, CRASH_ACTIONS.join(', '))
  for (const name of ['affinityHard', 'affinitySoft'] as const) {
    for (const set of settings[name] ?? []) if (set.length === 0) refuse(name, 'no CPU', 'at least one CPU for each vCPU')
  }
  for (const { disk, bytesPerSecond, operationsPerSecond } of settings.diskLimits ?? []) {
    if (disks && !disks.includes(disk)) refuse('diskLimits', disk, `a disk of it: ${disks.join(', ')}`)
    for (const value of [bytesPerSecond, operationsPerSecond]) {
      if (value !== undefined && !(Number.isSafeInteger(value) && value >= 0 && value <= DISK_LIMIT_MAX))
        refuse('diskLimits', value, `0 (no limit) to ${DISK_LIMIT_MAX}`)
    }
  }
}

/** Memory is plugged in such pieces: virtio-mem's on x86 with pages of 2 MiB. */
export const MEMORY_BLOCK_BYTES = 2 * 1024 * 1024
/** QEMU's: include/qemu/throttle.h, THROTTLE_VALUE_MAX. */
const DISK_LIMIT_MAX = 1_000_000_000_000_000

const CPU_COUNT_MAX = 4096
export const CPU_LIST_WANT = 'CPUs as 0-3,8'

/** A list as the kernel writes it: `0-3,8`. @throws Fault `invalid`. */
export function parseCpuList(path: string, text: string): CpuSet {
  const cpus = new Set<number>()
  for (const part of text.trim().split(',')) {
    const [, from, to = from] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part.trim()) ?? []
    const [first, last] = [Number(from), Number(to)]
    if (from === undefined || last < first || last >= CPU_COUNT_MAX)
      throw fieldFault({ path, want: CPU_LIST_WANT, got: JSON.stringify(text.slice(0, 100)) })
    for (let cpu = first; cpu <= last; cpu += 1) cpus.add(cpu)
  }
  return [...cpus].toSorted((a, b) => a - b)
}

export function formatCpuList(cpus: CpuSet): string {
  const parts: string[] = []
  for (let at = 0; at < cpus.length;) {
    let end = at
    while (cpus[end + 1] === (cpus[end] ?? 0) + 1) end += 1
    parts.push(end === at ? String(cpus[at]) : `${cpus[at]}-${cpus[end]}`)
    at = end + 1
  }
  return parts.join(',')
}

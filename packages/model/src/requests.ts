/**
 * What a caller may ask, as data: the schemas of requests and of their fields, with the words that say what each is. The toolstack checks its
 * callers by them, the API makes its own of the same fields, with its defaults and its bounds; what both have is written here alone.
 *
 * Bounds are those of the thing itself. What a cloud wants narrower (`sizeBetween`) is its own affair.
 */
import { z } from 'zod'
import { DEVICE_NAME_WANT, isDeviceName, isMac, isMediumName, USB_MODELS, type DeviceRequest } from './device.ts'
import { DISK_FULL, type DomainSpec } from './domain.ts'
import { ARCHITECTURES, BOOT_ORDER_WANT, BOOT_SOURCES, FIRMWARE_KINDS, isBootOrder } from './firmware.ts'
import { isUuid, LABEL, LABEL_WANT } from './ids.ts'
import type { MigrationParameters } from './migration.ts'
import { AUTOSTART_ORDER_MAX, CRASH_ACTIONS, SETTING_NAMES, type SettingsPatch } from './settings.ts'
import { QUIESCE_MODES } from './snapshot.ts'
import { isSshKey, SSH_KEY_WANT } from './ssh-key.ts'

export const MIB = 1024 * 1024
export const GIB = 1024 * MIB
export const TIB = 1024 * GIB
const SAYS_ALL = { abort: true }

/** Whole mebibytes, as QEMU's memory and the volumes' sizes are. */
export const sizeBetween = (min: number, max: number, unit: number = MIB) =>
  z
    .int()
    .min(min, SAYS_ALL)
    .max(max)
    .multipleOf(unit, { error: `want a multiple of ${unit / MIB} MiB` })

export const Uuid = z.string().refine(isUuid, { error: 'want a UUID' })
export const Label = z.string().regex(LABEL, { error: `want ${LABEL_WANT}` })
export const DeviceName = z.string().refine(isDeviceName, { error: `want ${DEVICE_NAME_WANT}` })
export const MediumName = z
  .string()
  .refine(isMediumName, { error: 'want the name of a file in the media folder of the host, no path' })
export const Mac = z
  .string()
  .refine(isMac, { error: 'want six pairs of 0-9 and a-f with : between, of no group (the second digit even)' })
export const AccountName = z.string().regex(/^[a-z_][a-z0-9_-]{0,31}$/, { error: 'want a Unix account name' })
export const SshKey = z
  .string()
  .max(24_576, SAYS_ALL)
  .refine(isSshKey, { error: `want ${SSH_KEY_WANT}` })
export const UserData = z.string().max(65_536)
export const Labels = z
  .record(z.string().regex(/^[a-z0-9][a-z0-9./-]{0,62}$/, { error: 'want 1 to 63 of a-z, 0-9, ., / and -' }), z.string().max(255))
  .refine((labels) => Object.keys(labels).length <= 64, { error: 'want at most 64 labels' })
export const DiskBytes = sizeBetween(MIB, 64 * TIB)
export const Protocol = z.enum(['tcp', 'udp'])
export const HostPort = z.int().min(0).max(65535)
export const GuestPort = z.int().min(1).max(65535)
const FORWARD_COUNT_MAX = 16

/** Port 0 is another one each time. */
export function refuseSamePort(
  forwards: readonly { readonly protocol: string; readonly hostPort: number }[],
  context: z.core.$RefinementCtx<unknown>,
): void {
  const seen = new Set<string>()
  for (const [index, { protocol, hostPort }] of forwards.entries()) {
    const port = `${protocol} ${hostPort}`
    if (hostPort !== 0 && seen.has(port))
      context.addIssue({ code: 'custom', path: [index, 'hostPort'], message: 'want a port that no other forward here has' })
    seen.add(port)
  }
}
export const forwardsOf = <T extends z.ZodType<{ protocol: string; hostPort: number; guestPort: number }>>(forward: T) =>
  z.array(forward).max(FORWARD_COUNT_MAX).superRefine(refuseSamePort)
const Forwards = forwardsOf(z.strictObject({ protocol: Protocol, hostPort: HostPort, guestPort: GuestPort }))

const COUNT_MAX = 4096
export const CpuWeight = z.int().min(1).max(10_000)
export const CpuCapPercent = z.int().min(0).max(100_000)
export const AutostartOrder = z.int().min(0).max(AUTOSTART_ORDER_MAX)
export const CrashActionName = z.enum(CRASH_ACTIONS)
export const BootOrder = z
  .array(z.enum(BOOT_SOURCES))
  .max(BOOT_SOURCES.length)
  .refine(isBootOrder, { error: `want ${BOOT_ORDER_WANT}` })
export const HotplugPortCount = z.int().min(0).max(16)
export const DiskLimitRequest = z.strictObject({
  disk: z.string().min(1).max(63).describe('name of the disk, such as root'),
  bytesPerSecond: z.int().min(0).optional().describe('0: no limit'),
  operationsPerSecond: z.int().min(0).optional().describe('0: no limit'),
})
export const DISK_LIMIT_COUNT_MAX = 64

const Boot = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('disk') }),
  z.strictObject({
    kind: z.literal('kernel'),
    kernelPath: z.string().min(1),
    efiKernelPath: z.string().min(1).optional(),
    initrdPath: z.string().min(1).nullable(),
    commandLine: z.string().max(4096),
  }),
])

/** Fields without a default: what is left out is as `DomainSpec` says. */
export const SpecRequest = z.strictObject({
  name: Label.describe('name, as DNS labels are'),
  image: Label.describe('image to boot'),
  vcpuCount: z.int().min(1).max(COUNT_MAX).describe('virtual processors'),
  memoryBytes: sizeBetween(MIB, 16 * TIB).describe('memory'),
  vcpuCountMax: z.int().min(1).max(COUNT_MAX).optional().describe('how many it may be given while it runs'),
  memoryBytesMax: sizeBetween(MIB, 16 * TIB, 2 * MIB)
    .optional()
    .describe('how much memory it may be given while it runs'),
  hugePages: z.boolean().optional().describe('its memory lies in huge pages, which the host has set aside'),
  rootDiskBytes: DiskBytes.describe('size of the root disk'),
  cloudInit: z.strictObject({
    hostname: Label,
    user: AccountName.nullable(),
    sshKeys: z.array(SshKey).max(32),
    userData: UserData.nullable(),
  }),
  forwards: Forwards.describe('ports of the host that reach the guest'),
  labels: Labels,
  diskFull: z.enum(DISK_FULL).optional().describe('when there is no room for what it writes'),
  hotplugPortCount: HotplugPortCount.optional().describe('how many devices can be attached to it later'),
  architecture: z.enum(ARCHITECTURES).optional(),
  firmware: z.enum(FIRMWARE_KINDS).optional(),
  tpm: z.boolean().optional(),
  bootOrder: BootOrder.optional().describe('what is tried to boot, in this order'),
  usb: z.boolean().optional().describe('a USB controller from the start'),
  autostart: z.boolean().optional().describe('start it again with its host, if it ran when that went down'),
  autostartOrder: AutostartOrder.optional().describe('lower ones are started first, of equal ones by name'),
  onCrash: CrashActionName.optional().describe('when its guest panics or its process fails'),
  boot: Boot.optional().describe('files of the host that it boots, instead of what its image boots by'),
})

/** What this version knows of a newer one's request: the rest is left out, as it cannot be heeded. */
export const knownSpec = (spec: DomainSpec): DomainSpec =>
  Object.fromEntries(Object.entries(spec).filter(([name]) => Object.hasOwn(SpecRequest.shape, name))) as unknown as DomainSpec

const CpuNumbers = z.array(z.int().min(0).max(4095)).min(1)
export const SettingsRequest = z.strictObject({
  vcpuCount: z.int().min(1).max(COUNT_MAX).optional().describe('virtual processors'),
  memoryBytes: sizeBetween(MIB, 16 * TIB)
    .optional()
    .describe('memory'),
  memoryTargetBytes: sizeBetween(MIB, 16 * TIB)
    .optional()
    .describe('how much of its memory it is to do with'),
  cpuWeight: CpuWeight.optional().describe('its share where CPUs are contended; 100 is the default'),
  cpuCapPercent: CpuCapPercent.optional().describe('at most so much CPU time for all its vCPUs together, in percent of one CPU'),
  affinityHard: z.array(CpuNumbers).max(COUNT_MAX).optional().describe('CPUs of the host for vCPU 0, 1, ...'),
  affinitySoft: z.array(CpuNumbers).max(COUNT_MAX).optional().describe('the same, for CPUs that are preferred'),
  diskLimits: z.array(DiskLimitRequest).max(DISK_LIMIT_COUNT_MAX).optional().describe('what a disk may do in a second'),
  autostart: z.boolean().optional(),
  autostartOrder: AutostartOrder.optional(),
  onCrash: CrashActionName.optional(),
  reset: z.array(z.enum(SETTING_NAMES)).max(16).optional().describe('settings that are to be as they were at the definition'),
})

const DeviceOfKind = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('disk'),
    name: DeviceName,
    sizeBytes: DiskBytes.optional(),
    readOnly: z.boolean().optional(),
  }),
  z.strictObject({ kind: z.literal('nic'), name: DeviceName, mac: Mac.optional(), forwards: Forwards.optional() }),
  z.strictObject({ kind: z.literal('cd'), name: DeviceName, medium: MediumName.optional() }),
  z.strictObject({
    kind: z.literal('usb'),
    name: DeviceName,
    model: z.enum(USB_MODELS),
    sizeBytes: DiskBytes.optional(),
  }),
])

export const DeviceRequestSchema = DeviceOfKind.superRefine((device, context) => {
  if (device.kind === 'usb' && device.model !== 'storage' && device.sizeBytes !== undefined)
    context.addIssue({ code: 'custom', path: ['sizeBytes'], message: 'want nothing: only USB storage has a volume' })
})

export const QuiesceMode = z.enum(QUIESCE_MODES)
export const FreezeTimeout = z.int().min(1).max(60_000)
/** For a guest to take part in something. */
export const GuestTimeout = z.int().min(1).max(300_000)

export const MIGRATION_FIELDS = {
  downtimeLimitMs: z
    .int()
    .min(1)
    .max(2_000_000)
    .optional()
    .describe(
      'how long it may stand still for the last of its memory; left out: 300 ms; emulated by QEMU before 9.0 it is as long as that takes',
    ),
  bandwidthBytes: z
    .int()
    .min(64 * 1024)
    .max(2 ** 50)
    .optional()
    .describe('bytes a second, of its memory and of each disk (of one that does not run, of all); left out: as fast as it goes'),
  autoConverge: z.boolean().describe('slow it down when it writes faster than its memory goes'),
  channelCount: z.int().min(0).max(16).describe('streams for its memory beside the one that there always is'),
  postCopy: z.boolean().describe('have it go on there when its memory has gone over once, and fetch what it wrote meanwhile'),
  dropSnapshots: z.boolean().describe('delete its snapshots, which cannot go with it'),
}
export const MigrationRequestSchema = z.strictObject({
  ...MIGRATION_FIELDS,
  autoConverge: MIGRATION_FIELDS.autoConverge.optional(),
  channelCount: MIGRATION_FIELDS.channelCount.optional(),
  postCopy: MIGRATION_FIELDS.postCopy.optional(),
  dropSnapshots: MIGRATION_FIELDS.dropSnapshots.optional(),
})

/** A field of the type that has no schema, or a schema of no field, does not compile. */
type SameKeys<T, S> = [Exclude<keyof T, keyof S>, Exclude<keyof S, keyof T>] extends [never, never] ? true : never
type Shape<S extends z.ZodObject> = S['shape']
const complete = <_ extends true>(): void => {}
complete<SameKeys<DomainSpec, Shape<typeof SpecRequest>>>()
complete<SameKeys<SettingsPatch, Shape<typeof SettingsRequest>>>()
complete<SameKeys<MigrationParameters, Shape<typeof MigrationRequestSchema>>>()
complete<SameKeys<Extract<DeviceRequest, { kind: 'disk' }>, Shape<(typeof DeviceOfKind.options)[0]>>>()
complete<SameKeys<Extract<DeviceRequest, { kind: 'nic' }>, Shape<(typeof DeviceOfKind.options)[1]>>>()
complete<SameKeys<Extract<DeviceRequest, { kind: 'cd' }>, Shape<(typeof DeviceOfKind.options)[2]>>>()
complete<SameKeys<Extract<DeviceRequest, { kind: 'usb' }>, Shape<(typeof DeviceOfKind.options)[3]>>>()

/**
 * The wire types. Each field says what it is (the text goes into OpenAPI, CLI help and portal); each schema is strict, so that an
 * unknown field is refused by name rather than dropped in silence.
 */
import {
  ARCHITECTURES,
  AUTOSTART_ORDER_DEFAULT,
  BOOT_SOURCES,
  CHORD_COUNT_MAX,
  chordsOfText,
  CPU_LIST_WANT,
  CRASH_ACTIONS,
  DEVICE_KINDS,
  DISK_FULL,
  DUMP_FORMATS,
  FIRMWARE_KINDS,
  MEMORY_TARGET_BYTES_MIN,
  parseChord,
  SETTING_NAMES,
  USB_MODELS,
} from '@typevisor/model'
import {
  AccountName,
  AutostartOrder,
  BootOrder,
  CpuCapPercent,
  CpuWeight,
  CrashActionName,
  DeviceName,
  DISK_LIMIT_COUNT_MAX,
  DiskBytes,
  DiskLimitRequest,
  forwardsOf,
  FreezeTimeout,
  GIB,
  GuestPort,
  GuestTimeout,
  HostPort,
  HotplugPortCount,
  Label,
  Labels,
  Mac,
  MediumName,
  MIB,
  MIGRATION_FIELDS,
  Protocol,
  QuiesceMode,
  sizeBetween,
  SshKey,
  TIB,
  UserData,
} from '@typevisor/model/requests'
import { z } from 'zod'

export { Label }

const MEMORY_BYTES_MIN = 64 * MIB
/** With a default, and still with its words. */
const described = <T extends z.ZodType>(field: T, value: z.util.NoUndefined<z.output<T>>) =>
  field.default(value).describe(field.description ?? '')

export const Id = z.uuid().describe('UUID')
export const Timestamp = z.int().describe('milliseconds since the Unix epoch')

export const FaultBody = z.strictObject({
  code: z.string(),
  message: z.string(),
  details: z.array(z.strictObject({ path: z.string(), want: z.string(), got: z.string() })).optional(),
})
export const ErrorBody = z.strictObject({ error: FaultBody, requestId: z.string() })

export const Role = z.enum(['viewer', 'operator', 'admin'])

export const InstanceStateKind = z.enum(['creating', 'stopped', 'running', 'paused', 'saved', 'crashed', 'failed', 'destroying'])
export const InstanceState = z.strictObject({
  kind: InstanceStateKind,
  cause: z.string().describe('why this state was entered'),
  detail: z.string().nullable(),
  since: Timestamp,
})
export const PortForward = z.strictObject({
  protocol: Protocol.default('tcp'),
  hostPort: HostPort.default(0).describe('port of the host; 0: the host chooses'),
  guestPort: GuestPort,
})
export const DiskLimit = DiskLimitRequest
const CpuList = z
  .string()
  .max(1024)
  .regex(/^\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*$/, { error: `want ${CPU_LIST_WANT}` })
export const InstanceSettings = z.strictObject({
  memoryTargetBytes: z.int().nullable().describe('what the balloon leaves the guest; null: all of its memory'),
  cpuWeight: z.int().nullable().describe('null: never set, which counts as 100'),
  cpuCapPercent: z.int().nullable(),
  affinityHard: z.array(z.string()).nullable(),
  affinitySoft: z.array(z.string()).nullable(),
  diskLimits: z.array(DiskLimit),
  autostart: z.boolean().describe('started again with its host, if it ran when that went down'),
  autostartOrder: z.int(),
  onCrash: z.enum(CRASH_ACTIONS),
  notes: z.array(z.string()).describe('what the guest has not taken up yet, and why'),
})
const CoreDump = z.strictObject({
  path: z.string().describe('on its host'),
  format: z.enum(DUMP_FORMATS),
  sizeBytes: z.int(),
  takenAt: Timestamp,
})
export const Instance = z.strictObject({
  id: Id,
  name: Label,
  image: Label,
  host: Label.nullable(),
  hostConnected: z.boolean().describe('false: the state is the last one known'),
  vcpuCount: z.int(),
  vcpuCountMax: z.int().describe('what it may be given while it runs'),
  memoryBytes: z.int(),
  memoryBytesMax: z.int().describe('what it may be given while it runs'),
  hugePages: z.boolean(),
  architecture: z.enum(ARCHITECTURES),
  firmware: z.enum(FIRMWARE_KINDS),
  tpm: z.boolean(),
  bootOrder: z.array(z.enum(BOOT_SOURCES)),
  settings: InstanceSettings,
  rootDiskBytes: z.int(),
  labels: z.record(z.string(), z.string()),
  forwards: z.array(PortForward),
  state: InstanceState,
  operation: z.strictObject({ id: Id, name: z.string() }).nullable().describe('the operation that holds the instance now'),
  snapshotCount: z.int().describe('snapshots that go with it when it is destroyed'),
  dump: CoreDump.nullable().describe('the newest core dump of its memory'),
  createdAt: Timestamp,
})
export const Snapshot = z.strictObject({
  id: Id,
  name: Label,
  takenAt: Timestamp,
  state: z.enum(['stopped', 'running', 'paused']).describe('what the instance was; with memory it is that again after a revert'),
  memoryBytes: z.int().nullable().describe('size of the kept memory; null: disks only'),
  quiesced: z.boolean().describe('false: a file system on its disks recovers as after a power cut'),
})

export const CreateInstance = z.strictObject({
  name: Label.describe('name, as DNS labels are'),
  image: Label.default('micro').describe('image to boot'),
  vcpuCount: z.int().min(1).max(64).default(1).describe('virtual processors'),
  memoryBytes: sizeBetween(MEMORY_BYTES_MIN, 16 * TIB)
    .default(256 * MIB)
    .describe('memory'),
  vcpuCountMax: z
    .int()
    .min(1)
    .max(64)
    .optional()
    .describe('how many it may be given while it runs; left out: no more than it begins with'),
  memoryBytesMax: sizeBetween(MEMORY_BYTES_MIN, 16 * TIB, 2 * MIB)
    .optional()
    .describe('how much memory it may be given while it runs; left out: no more than it begins with'),
  hugePages: z.boolean().default(false).describe('its memory lies in huge pages, which the host has set aside'),
  rootDiskBytes: sizeBetween(64 * MIB, 64 * TIB)
    .default(1 * GIB)
    .describe('size of the root disk'),
  host: Label.optional().describe('host to run on; the emptiest one when left out'),
  sshKeys: z
    .array(SshKey)
    .max(32)
    .default([])
    .describe(
      'OpenSSH public keys of the account; in the micro image they open root as well, unless user data says disable_root',
    ),
  user: AccountName.optional().describe('account to make in the guest, with sudo where the image has it (micro has none)'),
  userData: UserData.optional().describe('cloud-init user data'),
  forwards: forwardsOf(PortForward).default([]).describe('ports of the host that reach the guest'),
  labels: Labels.default({}).describe('labels for search'),
  diskFull: z
    .enum(DISK_FULL)
    .default('pause')
    .describe('when there is no room for what it writes: pause until there is, or give it the error of the disk'),
  hotplugPortCount: HotplugPortCount.default(8).describe(
    'how many devices can be attached to it later; it cannot be changed afterwards',
  ),
  architecture: z
    .enum(ARCHITECTURES)
    .default('x86_64')
    .describe('of its processors; another than the host has is emulated, and wants an image of it that boots from its disk'),
  firmware: z.enum(FIRMWARE_KINDS).default('bios').describe('what it is begun by; uefi-secure: with Secure Boot'),
  tpm: z.boolean().default(false).describe('a TPM 2.0 of its own'),
  bootOrder: BootOrder.default(['disk']).describe('what is tried to boot, in this order'),
  usb: z.boolean().default(false).describe('a USB controller from the start; else the first USB device takes a port for one'),
  autostart: z.boolean().default(false).describe('start it again with its host, if it ran when that went down'),
  autostartOrder: AutostartOrder.default(AUTOSTART_ORDER_DEFAULT).describe('lower ones are started first, of equal ones by name'),
  onCrash: CrashActionName.default('keep').describe(
    'when its guest panics or its process fails: leave it, start it again or power it off; dump-: after a core dump',
  ),
  start: z.boolean().default(true).describe('boot it at once'),
})

export const Page = <T extends z.ZodType>(item: T) =>
  z.strictObject({ items: z.array(item), total: z.int(), nextCursor: z.string().nullable() })

export const ListQuery = z.strictObject({
  search: z.string().max(200).optional().describe('words to look for'),
  cursor: z.string().max(500).optional().describe('where to go on: nextCursor of the page before'),
  limit: z.coerce.number<number>().int().min(1).max(500).default(100).describe('at most so many'),
})
export const InstanceListQuery = ListQuery.extend({
  state: InstanceStateKind.optional().describe('only in this state'),
  host: Label.optional().describe('only on this host'),
  sort: z.enum(['name', 'createdAt', 'state', 'memoryBytes']).default('name').describe('order'),
  order: z.enum(['asc', 'desc']).default('asc').describe('direction'),
})

export const OperationState = z.enum(['running', 'undoing', 'done', 'undone', 'stuck'])
export const Operation = z.strictObject({
  id: Id,
  name: z.string(),
  resource: z.string(),
  resourceName: z
    .string()
    .nullable()
    .describe('name of the thing it is about: of an instance, an image or a host; still known when the thing is gone'),
  state: OperationState,
  step: z.string().nullable().describe('the step under way'),
  progress: z.number().min(0).max(1).nullable(),
  waitsFor: z.string().nullable().describe('what it waits for, such as a host that is not connected'),
  fault: FaultBody.nullable(),
  createdAt: Timestamp,
  updatedAt: Timestamp,
})
export const Accepted = z.strictObject({ operation: Operation, instance: Instance.nullable() })

export const CreateSnapshot = z.strictObject({
  name: Label.describe('name, of one instance only once'),
  memory: z.boolean().default(false).describe('keep the memory of the guest too, which stands still meanwhile'),
  quiesce: QuiesceMode.default('try').describe(
    'of a running guest whose memory is not kept: have it freeze its file systems meanwhile; try: if it can',
  ),
  timeoutMs: FreezeTimeout.default(10_000).describe('time limit for the guest to freeze its file systems'),
})
export const RenameInstance = z.strictObject({ name: Label.describe('name, as DNS labels are; one that no instance has') })
export const SetInstance = z.strictObject({
  vcpuCount: z.int().min(1).max(64).optional().describe('virtual processors, up to vcpuCountMax of its creation'),
  memoryBytes: sizeBetween(MEMORY_BYTES_MIN, 16 * TIB)
    .optional()
    .describe('memory, from memoryBytes to memoryBytesMax of its creation'),
  memoryTargetBytes: sizeBetween(MEMORY_TARGET_BYTES_MIN, 16 * TIB)
    .optional()
    .describe('how much of its memory it is to do with; its balloon gives back the rest'),
  cpuWeight: CpuWeight.optional().describe('its share where CPUs are contended; 100 is the default'),
  cpuCapPercent: CpuCapPercent.optional().describe(
    'at most so much CPU time for all its vCPUs together, in percent of one CPU; 0: no limit',
  ),
  affinityHard: z
    .array(CpuList)
    .min(1)
    .max(64)
    .optional()
    .describe('CPUs of the host for vCPU 0, 1, ... such as 0-3,8; the last one is of all others too'),
  affinitySoft: z.array(CpuList).min(1).max(64).optional().describe('the same, for CPUs that are preferred'),
  diskLimits: z
    .array(DiskLimit)
    .max(DISK_LIMIT_COUNT_MAX)
    .optional()
    .describe('what a disk may do in a second; takes the place of the limits that it had'),
  autostart: z.boolean().optional().describe('start it again with its host, if it ran when that went down'),
  autostartOrder: AutostartOrder.optional().describe('lower ones are started first, of equal ones by name'),
  onCrash: CrashActionName.optional().describe(
    'when its guest panics or its process fails: leave it, start it again or power it off; dump-: after a core dump',
  ),
  reset: z.array(z.enum(SETTING_NAMES)).max(16).optional().describe('settings that are to be as they were at its creation'),
  timeoutMs: GuestTimeout.default(30_000).describe('time limit for the guest to take or give back vCPUs and memory'),
})
export const RevertInstance = z.strictObject({
  start: z.boolean().default(false).describe('boot it from a snapshot of disks only, which otherwise leaves it stopped'),
})
export const MigrateInstance = z.strictObject({
  host: Label.describe('host to move to'),
  ...MIGRATION_FIELDS,
  autoConverge: described(MIGRATION_FIELDS.autoConverge, false),
  channelCount: described(MIGRATION_FIELDS.channelCount, 0),
  postCopy: described(MIGRATION_FIELDS.postCopy, false),
  dropSnapshots: described(MIGRATION_FIELDS.dropSnapshots, false),
})
export const CloneInstance = z.strictObject({
  name: Label.describe('name of the new instance, as DNS labels are'),
  forwards: forwardsOf(PortForward)
    .optional()
    .describe('ports of the host that reach the guest; left out: those of the old one, with host ports that the host chooses'),
  labels: Labels.optional().describe('labels for search; left out: those of the old one'),
  start: z.boolean().default(true).describe('boot it at once'),
})
export const CopyInstance = z.strictObject({
  ...CloneInstance.shape,
  quiesce: CreateSnapshot.shape.quiesce,
  timeoutMs: CreateSnapshot.shape.timeoutMs,
})

/** What each kind takes beside its name. */
const DEVICE_FIELDS = {
  disk: ['sizeBytes', 'readOnly'],
  nic: ['mac', 'forwards'],
  cd: ['medium'],
  usb: ['model', 'sizeBytes'],
} as const satisfies Record<(typeof DEVICE_KINDS)[number], readonly string[]>

export const AttachDevice = z
  .strictObject({
    kind: z.enum(DEVICE_KINDS).describe('what it is'),
    device: DeviceName.describe('name of the device, of one instance only once'),
    sizeBytes: DiskBytes.optional().describe(
      'of a disk or USB storage: size of a new volume; left out: the kept volume of this name',
    ),
    readOnly: z.boolean().optional().describe('of a disk: the guest cannot write it'),
    mac: Mac.optional().describe('of a NIC; left out: one of its own'),
    forwards: forwardsOf(PortForward).optional().describe('of a NIC: ports of the host that reach the guest through it'),
    medium: MediumName.optional().describe('of a CD drive: image in the media folder of the host; left out: the drive is empty'),
    model: z.enum(USB_MODELS).optional().describe('of a USB device'),
  })
  .superRefine(({ kind, ...fields }, context) => {
    const known = new Set<string>(['device', ...DEVICE_FIELDS[kind]])
    for (const [path, value] of Object.entries(fields))
      if (value !== undefined && !known.has(path))
        context.addIssue({ code: 'custom', path: [path], message: `want nothing: a ${kind} has none` })
    if (kind === 'usb' && fields.model === undefined)
      context.addIssue({ code: 'custom', path: ['model'], message: `want ${USB_MODELS.join(', ')}` })
    if (kind === 'usb' && fields.model !== 'storage' && fields.sizeBytes !== undefined)
      context.addIssue({ code: 'custom', path: ['sizeBytes'], message: 'want nothing: only USB storage has a volume' })
  })
export const ResizeDisk = z.strictObject({ sizeBytes: DiskBytes.describe('its new size; a disk only grows') })
export const InsertMedium = z.strictObject({ medium: MediumName.describe('image in the media folder of the host') })
export const Device = z.strictObject({
  name: z.string(),
  kind: z.string(),
  state: z
    .enum(['attached', 'leaving', 'kept'])
    .describe(
      'leaving: the guest was asked to let go and has not yet; kept: detached, its volume is there and is attached again by its name',
    ),
  detachable: z.boolean().describe('false: it is part of the machine since its creation'),
  port: z.string().nullable().describe('hot-plug port that it is behind'),
  address: z.string().nullable().describe('PCI address on its bus, slot.function; of a USB device its port'),
  sizeBytes: z.int().nullable().describe('of its volume'),
  readOnly: z.boolean().nullable(),
  mac: z.string().nullable(),
  forwards: z.array(PortForward),
  medium: z.string().nullable().describe('what is in a CD drive'),
  model: z.string().nullable(),
})
export const Medium = z.strictObject({ name: z.string() })

export const ExecBody = z.strictObject({
  argv: z.array(z.string().max(131_072)).min(1).max(1024).describe('command and arguments; no shell'),
  stdinBase64: z
    .base64()
    .max(4 * MIB)
    .optional(),
  timeoutMs: z.int().min(1).max(600_000).default(60_000).describe('time limit'),
})
export const ExecReply = z.strictObject({
  exitCode: z.int().nullable(),
  signal: z.int().nullable(),
  stdoutBase64: z.string(),
  stderrBase64: z.string(),
  truncated: z.boolean(),
})
export const Screenshot = z.strictObject({ type: z.literal('image/png'), contentBase64: z.string() })
/** Whether it is not refused. */
function taken(parse: () => unknown): boolean {
  try {
    parse()
    return true
  } catch {
    return false
  }
}
export const KeysBody = z.strictObject({
  keys: z
    .array(
      z
        .string()
        .max(128)
        .refine((text) => taken(() => parseChord(text)), {
          error: 'want names of keys with - between, such as ctrl-alt-delete',
        }),
    )
    .max(CHORD_COUNT_MAX)
    .optional()
    .describe('keys pressed together, joined by -, one after the other: ctrl-alt-delete f2 ret'),
  text: z
    .string()
    .max(CHORD_COUNT_MAX)
    .refine((text) => taken(() => chordsOfText(text)), { error: 'want characters of a US keyboard' })
    .optional()
    .describe('typed after them, as on a US keyboard'),
})
const GuestPath = z
  .string()
  .max(4096)
  .regex(/^\/[^\0]*$/, { error: 'want an absolute path' })
  .describe('absolute path in the guest')
/** What one call reads or writes of a file. */
const GUEST_FILE_BYTES_MAX = 4 * MIB
export const GuestFileQuery = z.strictObject({
  path: GuestPath,
  from: z.coerce.number<number>().int().min(0).default(0).describe('offset of the first byte'),
  limitBytes: z.coerce
    .number<number>()
    .int()
    .min(1)
    .max(GUEST_FILE_BYTES_MAX)
    .default(GUEST_FILE_BYTES_MAX)
    .describe('at most so much of it'),
})
export const GuestFile = z.strictObject({ contentBase64: z.string() })
export const PutGuestFile = z.strictObject({
  path: GuestPath,
  contentBase64: z
    .base64()
    .max((GUEST_FILE_BYTES_MAX * 4) / 3 + 4)
    .describe('what is written, at most 4 MiB'),
  append: z.boolean().default(false).describe('write behind what is there; otherwise it replaces it'),
})
export const GuestPassword = z.strictObject({
  user: z.string().min(1).max(64).describe('account of the guest'),
  password: z.string().min(1).max(1024),
})
export const Address = z.strictObject({
  device: z.string(),
  mac: z.string().nullable(),
  addresses: z.array(z.strictObject({ family: z.enum(['ipv4', 'ipv6']), address: z.string(), prefixLength: z.int() })),
})
export const Statistics = z.strictObject({
  at: Timestamp,
  cpuTimeNs: z.number().nullable(),
  residentBytes: z.number().nullable(),
  balloonBytes: z.number().nullable().describe('what the balloon leaves the guest, with what is plugged'),
  vcpus: z
    .array(
      z.strictObject({
        index: z.int(),
        cpuTimeNs: z.number().nullable(),
        waitTimeNs: z.number().nullable().describe('how long it could have run and no CPU was free'),
      }),
    )
    .describe('its virtual processors; none of a host of an older version'),
  disks: z.array(
    z.strictObject({
      name: z.string(),
      readBytes: z.number(),
      writeBytes: z.number(),
      readCount: z.number(),
      writeCount: z.number(),
      flushCount: z.number(),
      readTimeNs: z.number().nullable().describe('how long the reads took together'),
      writeTimeNs: z.number().nullable(),
      flushTimeNs: z.number().nullable(),
    }),
  ),
  nics: z.array(z.strictObject({ name: z.string(), receiveBytes: z.number().nullable(), transmitBytes: z.number().nullable() })),
})
export const ConsoleSlice = z.strictObject({
  startOffset: z.int().describe('offset of the first byte given, counted from the first byte the guest ever wrote'),
  endOffset: z.int(),
  contentBase64: z.string(),
})

export const PlatformEvent = z.strictObject({
  sequence: z.string().describe('grows; give the last one seen to go on after it'),
  at: Timestamp,
  kind: z.string().describe('noun.change, such as instance.state; event.gap: some were missed, load anew what you show'),
  resource: z.string().nullable().describe('id of the thing'),
  name: z.string().nullable(),
  data: z.record(z.string(), z.unknown()),
})

export const Image = z.strictObject({
  name: Label,
  title: z.string(),
  host: Label,
  digest: z.string(),
  sizeBytes: z.int(),
  virtualBytes: z.int(),
  minimumMemoryBytes: z.int(),
  defaultUser: z.string(),
  contents: z.record(z.string(), z.string()),
  builtAt: Timestamp,
})
export const VolumeServer = z.strictObject({
  state: z.enum(['serving', 'away']).describe('away: guests stand still at their next write until another serves'),
  since: Timestamp.describe('when it entered the state'),
  cause: z.string().describe('why: started, found, ended, hung, upgrade, failed, unknown'),
  detail: z.string().nullable(),
  version: z.string().nullable().describe('of the one that serves, or that served last; null: none was seen yet'),
  startedAt: Timestamp.nullable(),
  attachedCount: z.int().describe('volumes that guests use'),
  space: z
    .strictObject({
      usedBytes: z.int(),
      availableBytes: z.int(),
      capacityBytes: z.int(),
      warningPercent: z.int().nullable().describe('80, 90 or 95 when so much is used; null: less is'),
      limitedBy: z
        .enum(['store', 'host'])
        .describe('what would be full first: the store, or the file system of the host that it lies on'),
    })
    .nullable()
    .describe('null: not known now'),
})
/** What can begin a guest: an architecture by itself, or one of its firmware kinds, `tpm` or `network`. */
export const GuestsOfHost = z.strictObject({
  architecture: z.enum(ARCHITECTURES),
  can: z.array(z.string()).describe('firmware kinds, tpm, network; none: it runs no guest of this architecture'),
  cannot: z.array(z.strictObject({ what: z.string(), reason: z.string() })).describe('what is missing, and how to get it'),
})
export const Host = z.strictObject({
  name: Label,
  connected: z.boolean(),
  driver: z.string(),
  version: z.string(),
  accelerator: z.string(),
  acceleratorReason: z.string(),
  cpuCount: z.int(),
  memoryBytes: z.int(),
  instanceCount: z.int(),
  lastSeenAt: Timestamp.nullable(),
  guests: z.array(GuestsOfHost).describe('none: it is not connected, or of a version that does not say it'),
  volumeServer: VolumeServer.nullable().describe(
    'what serves the disks of its guests; null: it keeps none, or it cannot be asked now',
  ),
})

export const Account = z.strictObject({ id: Id, name: Label, role: Role, createdAt: Timestamp, disabled: z.boolean() })
export const Password = z.string().min(10, { error: 'want at least 10 characters' }).max(1024)
export const Credentials = z.strictObject({ account: z.string().min(1).max(64), password: z.string().min(1).max(1024) })
export const Session = z.strictObject({ account: Account, csrfToken: z.string().nullable(), expiresAt: Timestamp.nullable() })
export const TokenScope = z
  .string()
  .regex(/^(?:\*|[a-z]+):(?:read|write)$|^\*$/, { error: 'want NOUN:read, NOUN:write, *:read or *' })
export const Token = z.strictObject({
  id: Id,
  name: Label,
  account: z.string(),
  scopes: z.array(TokenScope),
  createdAt: Timestamp,
  expiresAt: Timestamp.nullable(),
  lastUsedAt: Timestamp.nullable(),
})
export const CreateToken = z.strictObject({
  name: Label,
  scopes: z.array(TokenScope).min(1).max(32).default(['*']).describe('what it may do'),
  expiresAt: Timestamp.optional().describe('when it ends to be valid'),
})
export const AuditEntry = z.strictObject({
  id: z.string(),
  at: Timestamp,
  account: z.string().nullable(),
  via: z.enum(['session', 'token', 'local', 'none']),
  operation: z.string(),
  resource: z.string().nullable(),
  resourceName: z.string().nullable().describe('its name, as it was then'),
  outcome: z.string().describe('ok, the fault code, or begun: under way, or cut off (commands in guests, consoles)'),
  address: z.string().nullable(),
})
export const Platform = z.strictObject({
  version: z.string(),
  instanceCount: z.int(),
  hostCount: z.int(),
  uptimeMs: z.int(),
  database: z.enum(['embedded', 'external']),
  pid: z.int(),
})
export const Empty = z.strictObject({})

/** An instance is named by its id or its name. */
export const InstanceParams = z.strictObject({ instance: z.string().min(1).max(64).describe('id or name of the instance') })
export const DeviceParams = InstanceParams.extend({ device: z.string().min(1).max(64).describe('name of the device') })
export const SnapshotParams = InstanceParams.extend({ snapshot: Label.describe('name of the snapshot') })
export const WaitQuery = z.strictObject({
  wait: z.coerce.number<number>().min(0).max(60).default(0).describe('seconds to wait for the end'),
})
const Flag = z.enum(['true', 'false']).default('false')
export const DestroyQuery = WaitQuery.extend({
  force: Flag.describe(
    'also when its host is gone for good: the row goes, whatever the host still has is ended when it comes back',
  ),
})
export const DetachQuery = WaitQuery.extend({
  force: Flag.describe('without asking the guest, which sees the device vanish'),
  delete: Flag.describe('its volume too, also of a device that is detached already'),
  timeoutMs: z.coerce.number<number>().int().min(1).max(600_000).default(30_000).describe('time limit for the guest to let go'),
})
export const OperationParams = z.strictObject({ operation: Id })
export const AccountParams = z.strictObject({ account: Label })
export const TokenParams = z.strictObject({ token: Id })
export const ImageParams = z.strictObject({ image: Label })
export const BuildImage = z.strictObject({ host: Label.optional().describe('host to build on') })
export const CreateAccount = z.strictObject({
  name: Label,
  role: Role.default('operator').describe('what it may do'),
  password: Password,
})
export const SetPassword = z.strictObject({
  password: Password,
  currentPassword: z
    .string()
    .min(1)
    .max(1024)
    .optional()
    .describe('the one until now: asked for when you set your own with a session'),
})
export const TokenSecret = z.strictObject({ token: Token, secret: z.string().describe('shown once') })
export const AddressList = z.strictObject({ items: z.array(Address) })
export const ConsoleLogQuery = z.strictObject({
  from: z.coerce.number<number>().int().min(0).default(0).describe('offset of the first byte'),
  limit: z.coerce.number<number>().int().min(1).max(1_048_576).default(262_144).describe('at most so many bytes'),
})
export const ConsoleQuery = z.strictObject({
  from: z.coerce.number<number>().int().min(0).optional().describe('begin with the kept output from this offset'),
})
export const OperationListQuery = ListQuery.extend({
  unfinished: z.enum(['true', 'false']).optional().describe('only those under way'),
  state: OperationState.optional().describe('only in this state'),
  resource: z.string().max(64).optional().describe('only of this thing, by its id or by the name that it had'),
})
export const EventListQuery = ListQuery.extend({
  resource: z.string().max(64).optional().describe('only of this thing, by its id or by the name that it had'),
})
export const EventStreamQuery = z.strictObject({
  after: z.string().max(64).optional().describe('sequence of the last event seen'),
})
export const HostParams = z.strictObject({ host: Label })
export const DeleteHostQuery = z.strictObject({
  force: Flag.describe('its instances too, as they are: for a host that is gone for good'),
})
export const CreateHostToken = z.strictObject({ name: Label.describe('name of the host') })
export const HostToken = z.strictObject({ name: Label, secret: z.string().describe('shown once') })
export const Health = z.strictObject({ status: z.literal('ok'), version: z.string() })
export const StopPlatform = z.strictObject({ guests: z.boolean().default(false).describe('stop the guests too') })

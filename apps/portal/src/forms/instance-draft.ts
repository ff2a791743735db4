/**
 * What the create form holds, and what it sends. The form is a draft in the words people type (`512M`, one key a line); the server
 * judges the result, and the draft only refuses what has no meaning at all.
 */
import { formatBytes, GIB, MIB, parseBytes, type FaultDetail } from '@typevisor/base'
import type { Body } from '@typevisor/api'
import { AUTOSTART_ORDER_DEFAULT, type BootSource, type CrashAction, type DiskFull, type Firmware } from '@typevisor/model'
import { forwardsOf, type ForwardDraft } from './forward-draft.ts'

export interface InstanceDraft {
  readonly name: string
  readonly image: string
  readonly size: SizeName | 'custom'
  readonly vcpuCount: string
  readonly memory: string
  readonly disk: string
  readonly host: string
  readonly sshKeys: string
  readonly user: string
  readonly userData: string
  readonly forwards: readonly ForwardDraft[]
  readonly labels: string
  readonly diskFull: DiskFull
  readonly firmware: Firmware
  /** Of a guest that begins by UEFI. */
  readonly tpm: boolean
  /** Words of BOOT_SOURCES, in that order. */
  readonly bootOrder: string
  /** Empty: as many as it begins with. */
  readonly vcpuCountMax: string
  /** Empty: as much as it begins with. */
  readonly memoryMax: string
  readonly hugePages: boolean
  readonly onCrash: CrashAction
  readonly autostart: boolean
  readonly autostartOrder: string
  readonly start: boolean
}

export interface Size {
  readonly title: string
  readonly vcpuCount: number
  readonly memoryBytes: number
  readonly rootDiskBytes: number
}

export const SIZES = {
  tiny: { title: 'Tiny', vcpuCount: 1, memoryBytes: 256 * MIB, rootDiskBytes: 1 * GIB },
  small: { title: 'Small', vcpuCount: 1, memoryBytes: 1 * GIB, rootDiskBytes: 8 * GIB },
  medium: { title: 'Medium', vcpuCount: 2, memoryBytes: 4 * GIB, rootDiskBytes: 20 * GIB },
  large: { title: 'Large', vcpuCount: 4, memoryBytes: 8 * GIB, rootDiskBytes: 40 * GIB },
} as const satisfies Record<string, Size>
export type SizeName = keyof typeof SIZES
export const SIZE_NAMES = Object.keys(SIZES) as SizeName[]

const sizeFields = (size: Size) => ({
  vcpuCount: String(size.vcpuCount),
  memory: formatBytes(size.memoryBytes),
  disk: formatBytes(size.rootDiskBytes),
})

export const withSize = (draft: InstanceDraft, size: SizeName): InstanceDraft => ({ ...draft, size, ...sizeFields(SIZES[size]) })

/** The preset that the three fields amount to, so that typing `4 GiB` lights up the right card. */
export function sizeOf(draft: Pick<InstanceDraft, 'vcpuCount' | 'memory' | 'disk'>): SizeName | 'custom' {
  const found = SIZE_NAMES.find((name) => {
    const fields = sizeFields(SIZES[name])
    return fields.vcpuCount === draft.vcpuCount && sameBytes(fields.memory, draft.memory) && sameBytes(fields.disk, draft.disk)
  })
  return found ?? 'custom'
}

function sameBytes(left: string, right: string): boolean {
  try {
    return parseBytes(left) === parseBytes(right)
  } catch {
    return false
  }
}

export const newDraft = (name: string): InstanceDraft => ({
  name,
  image: 'micro',
  size: 'tiny',
  ...sizeFields(SIZES.tiny),
  host: '',
  sshKeys: '',
  user: '',
  userData: '',
  forwards: [],
  labels: '',
  diskFull: 'pause',
  firmware: 'bios',
  tpm: false,
  bootOrder: BOOT_ORDER_DEFAULT,
  vcpuCountMax: '',
  memoryMax: '',
  hugePages: false,
  onCrash: 'keep',
  autostart: false,
  autostartOrder: String(AUTOSTART_ORDER_DEFAULT),
  start: true,
})

const BOOT_ORDER_DEFAULT = 'disk'
/** By what the draft says of it. */
export const BOOT_ORDERS: Readonly<Record<string, { readonly title: string; readonly order: readonly BootSource[] }>> = {
  [BOOT_ORDER_DEFAULT]: { title: 'Its disk', order: ['disk'] },
  'network disk': { title: 'The network, and where that has nothing its disk', order: ['network', 'disk'] },
  'disk network': { title: 'Its disk, and where that has nothing the network', order: ['disk', 'network'] },
  network: { title: 'The network', order: ['network'] },
}

export const DISK_FULL_TEXT: Readonly<Record<DiskFull, { readonly title: string; readonly means: string }>> = {
  pause: { title: 'Pause it until there is', means: 'It stands still, and goes on by itself with nothing lost' },
  error: {
    title: 'Give it the error of its disk',
    means: 'It runs on; programs in it see an I/O error, and a file system may go read-only',
  },
}

/** The server counts sizes in bytes; whoever typed `1M` is told in the same words: `at least 67108864` -> `at least 64 MiB`. */
export const inSizes = (text: string): string => text.replace(/\b\d{4,16}\b/g, (digits) => formatBytes(Number(digits)))

const ADJECTIVES = [
  'amber',
  'brisk',
  'calm',
  'clear',
  'deft',
  'eager',
  'fair',
  'gentle',
  'hardy',
  'keen',
  'lively',
  'mild',
  'noble',
  'plain',
  'quick',
  'quiet',
  'sharp',
  'steady',
  'swift',
  'warm',
]
const NOUNS = [
  'alder',
  'birch',
  'brook',
  'cedar',
  'crane',
  'delta',
  'fjord',
  'grove',
  'heron',
  'kite',
  'larch',
  'maple',
  'osprey',
  'otter',
  'pine',
  'reef',
  'ridge',
  'robin',
  'spruce',
  'wren',
]

/** A name that is easy to say and to tell apart: `calm-otter`. `random` gives [0, 1). */
export function suggestName(random: () => number, taken: ReadonlySet<string> = new Set()): string {
  const pick = (words: readonly string[]) => words[Math.floor(random() * words.length)] ?? words[0] ?? ''
  for (let attempt = 0; attempt < 20; attempt += 1) {
    const name = `${pick(ADJECTIVES)}-${pick(NOUNS)}`
    if (!taken.has(name)) return name
  }
  return `${pick(ADJECTIVES)}-${pick(NOUNS)}-${Math.floor(random() * 10_000)}`
}

/** What it is begun by; a TPM that was asked for is left out with BIOS, which has none. */
const begun = ({ firmware, tpm }: InstanceDraft) => (firmware === 'bios' ? {} : { firmware, ...(tpm && { tpm: true }) })

export type DraftResult =
  | { readonly ok: true; readonly body: Body<'instance.create'> }
  | { readonly ok: false; readonly details: readonly FaultDetail[] }

const linesOf = (text: string): string[] =>
  text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '')

export function toBody(draft: InstanceDraft): DraftResult {
  const details: FaultDetail[] = []
  const wrong = (path: string, want: string, got: string) => details.push({ path, want, got: JSON.stringify(got) })

  const whole = (path: string, text: string, want: string): number => {
    if (!/^\d{1,9}$/.test(text.trim())) wrong(path, want, text)
    return Number(text)
  }
  const size = (path: string, text: string): number => {
    try {
      const sizeBytes = parseBytes(text)
      // `1.3 GiB` is what a person says; the server takes whole mebibytes.
      return text.includes('.') ? Math.round(sizeBytes / MIB) * MIB : sizeBytes
    } catch {
      wrong(path, 'a size such as 512M or 4 GiB', text)
      return 0
    }
  }
  const labels: Record<string, string> = {}
  for (const line of linesOf(draft.labels)) {
    const at = line.indexOf('=')
    if (at < 1) wrong('labels', 'key=value', line)
    else labels[line.slice(0, at).trim()] = line.slice(at + 1).trim()
  }
  const forwards = forwardsOf(draft.forwards, wrong)
  const sshKeys = linesOf(draft.sshKeys)
  const given = (text: string): boolean => text.trim() !== ''
  const user = draft.user.trim()
  const body: Body<'instance.create'> = {
    name: draft.name.trim(),
    image: draft.image,
    vcpuCount: whole('vcpuCount', draft.vcpuCount, 'a whole number'),
    memoryBytes: size('memoryBytes', draft.memory),
    rootDiskBytes: size('rootDiskBytes', draft.disk),
    start: draft.start,
    ...(draft.diskFull !== 'pause' && { diskFull: draft.diskFull }),
    ...begun(draft),
    ...(draft.bootOrder !== BOOT_ORDER_DEFAULT && { bootOrder: [...(BOOT_ORDERS[draft.bootOrder]?.order ?? [])] }),
    ...(given(draft.vcpuCountMax) && { vcpuCountMax: whole('vcpuCountMax', draft.vcpuCountMax, 'a whole number') }),
    ...(given(draft.memoryMax) && { memoryBytesMax: size('memoryBytesMax', draft.memoryMax) }),
    ...(draft.hugePages && { hugePages: true }),
    ...(draft.onCrash !== 'keep' && { onCrash: draft.onCrash }),
    ...(draft.autostart && {
      autostart: true,
      ...(given(draft.autostartOrder) && { autostartOrder: whole('autostartOrder', draft.autostartOrder, 'a whole number') }),
    }),
    ...(draft.host !== '' && { host: draft.host }),
    ...(sshKeys.length > 0 && { sshKeys }),
    ...(user !== '' && { user }),
    ...(draft.userData.trim() !== '' && { userData: draft.userData }),
    ...(forwards.length > 0 && { forwards }),
    ...(Object.keys(labels).length > 0 && { labels }),
  }
  return details.length > 0 ? { ok: false, details } : { ok: true, body }
}

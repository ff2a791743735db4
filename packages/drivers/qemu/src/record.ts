/**
 * What the driver writes down of a domain's run, in `domain.json`: enough to find the process again after SIGKILL at any moment, and
 * to settle what was going on.
 *
 *   (none) --create--> starting --> live --save--> saving --> saved --> (none)
 *                          |          |              | fault     process ended
 *                          | died     | process      +--> live
 *                          v          v ended
 *                        swept      gone (cause and last words kept until destroy or the next create)
 *
 * `starting` is written before the process is spawned, so a QEMU without a record cannot be; it is found by its `-pidfile` argument.
 * It tells of processes, which a power cut ends anyway, so it is not synced.
 *
 * No guest depends on this file: one that is missing, torn, foreign or of another version says nothing about what runs, and the process
 * and its monitor are asked instead (`adoption.ts`). Such a file is never written over: it is kept beside, as `domain.json.unreadable`.
 */
import { toFault } from '@typevisor/base'
import type { DomainHardware, DomainId } from '@typevisor/model'
import type { DriverState } from '@typevisor/toolstack'
import type { HostFiles, ProcessIdentity } from './ports.ts'
import { excerpt, isObject, numberOf, parseObject, textOf } from './read-json.ts'

export type RunPhase =
  | { readonly kind: 'starting' }
  | { readonly kind: 'live' }
  /** `wasRunning`: the guest has to go on when the save comes to nothing. */
  | { readonly kind: 'saving'; readonly path: string; readonly wasRunning: boolean }
  | { readonly kind: 'saved'; readonly path: string; readonly sizeBytes: number }
  /** Its memory comes from another host. */
  | { readonly kind: 'incoming' }
  /** It runs here, and what it lacks of its memory comes from another host. */
  | { readonly kind: 'arriving' }
  | { readonly kind: 'gone' }

export interface RunRecord {
  readonly version: typeof RECORD_VERSION
  readonly id: DomainId
  readonly name: string
  readonly hardware: DomainHardware
  readonly memoryBytes: number
  readonly vcpuCount: number
  readonly phase: RunPhase
  /** null until the process is known. */
  readonly process: ProcessIdentity | null
  /** Its swtpm; null until that is known. Absent: it has no TPM. */
  readonly tpm?: ProcessIdentity | null
  /** The last state that was seen, with its cause. */
  readonly state: DriverState
  /** A pause was asked for while the guest waited for room on its disk: it does not go on by itself. */
  readonly held?: boolean
}

/** What lies at a record's path. `none` is no proof that nothing runs: whoever tidies folders may have taken the file and left the sockets. */
export type RecordFound =
  | { readonly kind: 'none' }
  | { readonly kind: 'record'; readonly record: RunRecord }
  | { readonly kind: 'unreadable'; readonly reason: string }

const RECORD_VERSION = 1
const RECORD_SIZE_MAX = 1024 * 1024

/** Never throws: a disk that cannot be read makes a record unreadable and nothing more. */
export async function findRecord(files: HostFiles, path: string): Promise<RecordFound> {
  try {
    const content = await files.read(path, 0, RECORD_SIZE_MAX)
    if (content === null) return { kind: 'none' }
    const text = new TextDecoder().decode(content)
    const record = parseRecord(text)
    if (record) return { kind: 'record', record }
    const version = parseObject(text)?.['version']
    const reason =
      version === undefined || version === RECORD_VERSION ? 'it is no record' : `it is of version ${excerpt(version)}`
    return { kind: 'unreadable', reason: `${reason}, want version ${RECORD_VERSION}` }
  } catch (error) {
    return { kind: 'unreadable', reason: toFault(error).message }
  }
}

/** Makes room for a record of ours; a second one that cannot be read takes the place of the first. */
export const setAside = (files: HostFiles, path: string): Promise<void> => files.rename(path, `${path}.unreadable`)

export const writeRecord = (files: HostFiles, path: string, record: RunRecord): Promise<void> =>
  files.replace(path, new TextEncoder().encode(`${JSON.stringify(record)}\n`), { sync: false })

/** null: not a record of this version. */
export function parseRecord(text: string): RunRecord | null {
  const json = parseObject(text)
  if (!json || json['version'] !== RECORD_VERSION) return null
  const { phase, state, hardware, process } = json
  const isPhase =
    isObject(phase) &&
    ['starting', 'live', 'saving', 'saved', 'incoming', 'arriving', 'gone'].includes(textOf(phase['kind']) ?? '') &&
    (phase['kind'] !== 'saving' || (textOf(phase['path']) !== null && typeof phase['wasRunning'] === 'boolean'))
  const isState = isObject(state) && ['running', 'paused', 'powered-off', 'crashed', 'gone'].includes(textOf(state['kind']) ?? '')
  const isProcess =
    process === null ||
    (isObject(process) &&
      numberOf(process['pid']) !== null &&
      numberOf(process['startTimeTicks']) !== null &&
      textOf(process['bootId']) !== null)
  const isHardware = isObject(hardware) && Array.isArray(hardware['devices'])
  const isNamed = textOf(json['id']) !== null && textOf(json['name']) !== null
  const isSized = numberOf(json['memoryBytes']) !== null && numberOf(json['vcpuCount']) !== null
  // The file is written by this module alone, in a folder of mode 0700; the shape that is relied on was checked above.
  return isPhase && isState && isProcess && isHardware && isNamed && isSized ? (json as unknown as RunRecord) : null
}

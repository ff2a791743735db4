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
 * A record that cannot be read counts as `starting`: what runs is then swept, never taken for a finished domain.
 */
import type { DomainHardware, DomainId } from '@typevisor/model'
import type { DriverState } from '@typevisor/toolstack'
import type { HostFiles, ProcessIdentity } from './ports.ts'
import { isObject, numberOf, parseObject, textOf } from './read-json.ts'

export type RunPhase =
  | { readonly kind: 'starting' }
  | { readonly kind: 'live' }
  /** `wasRunning`: the guest has to go on when the save comes to nothing. */
  | { readonly kind: 'saving'; readonly path: string; readonly wasRunning: boolean }
  | { readonly kind: 'saved'; readonly path: string; readonly sizeBytes: number }
  | { readonly kind: 'gone' }

export interface RunRecord {
  readonly version: 1
  readonly id: DomainId
  readonly name: string
  readonly hardware: DomainHardware
  readonly memoryBytes: number
  readonly vcpuCount: number
  readonly phase: RunPhase
  /** null until the process is known. */
  readonly process: ProcessIdentity | null
  /** The last state that was seen, with its cause. */
  readonly state: DriverState
}

const RECORD_SIZE_MAX = 1024 * 1024

export async function readRecord(files: HostFiles, path: string): Promise<RunRecord | null> {
  const content = await files.read(path, 0, RECORD_SIZE_MAX)
  return content === null ? null : parseRecord(new TextDecoder().decode(content))
}

export const writeRecord = (files: HostFiles, path: string, record: RunRecord): Promise<void> =>
  files.replace(path, new TextEncoder().encode(`${JSON.stringify(record)}\n`), { sync: false })

/** null: not a record of this version. */
export function parseRecord(text: string): RunRecord | null {
  const json = parseObject(text)
  if (!json || json['version'] !== 1) return null
  const { phase, state, hardware, process } = json
  const isPhase = isObject(phase) && ['starting', 'live', 'saving', 'saved', 'gone'].includes(textOf(phase['kind']) ?? '')
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

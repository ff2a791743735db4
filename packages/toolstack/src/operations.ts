/**
 * What a toolstack does on request, as data: what each operation is for, what it takes and how it fails. Callers are checked by it before
 * anything is begun, and the reference in docs/toolstack.md is made of it.
 *
 * Lifecycle verbs (`carryOut`) have a table of their own in `@typevisor/model`: from which states, to which, and what may happen meanwhile.
 */
import type { FaultCode } from '@typevisor/base'
import { VERB_NAMES } from '@typevisor/model'
import { checked } from '@typevisor/model/check'
import {
  DeviceName,
  DeviceRequestSchema,
  DiskBytes,
  FreezeTimeout,
  GuestTimeout,
  Label,
  MediumName,
  MigrationRequestSchema,
  QuiesceMode,
  SettingsRequest,
  SpecRequest,
  Uuid,
} from '@typevisor/model/requests'
import { z } from 'zod'
import type { Toolstack } from './toolstack.ts'

interface Operation {
  readonly summary: string
  /** Beside the domain and, of one that changes something, what every command has. */
  readonly input: z.ZodObject
  readonly faults: readonly FaultCode[]
}

const change = <S extends z.core.$ZodLooseShape>(summary: string, input: S, faults: readonly FaultCode[]) => ({
  summary,
  input: z.strictObject({ id: Uuid, ...COMMAND, ...input }),
  faults,
})

/** Of every operation that changes something. */
const COMMAND = {
  commandId: z.string().min(1).max(256).describe('given twice it is done once'),
  fence: z.int().min(0).optional().describe('an owner with a lower one than was seen is refused'),
}

const Snapshot = { snapshot: Uuid }

/** By method of `Toolstack`. */
export const TOOLSTACK_OPERATIONS = {
  define: change('make disks and record of a new domain, which is stopped', { spec: SpecRequest }, [
    'conflict',
    'not_found',
    'unsupported',
    'exhausted',
  ]),
  carryOut: change('a verb of the lifecycle', { verb: z.enum(VERB_NAMES), timeoutMs: z.int().min(0).optional() }, [
    'not_found',
    'conflict',
    'timeout',
    'failed',
    'exhausted',
    'unsupported',
  ]),
  set: change('change settings, also while the guest runs', { patch: SettingsRequest, timeoutMs: GuestTimeout.optional() }, [
    'not_found',
    'conflict',
    'unsupported',
    'timeout',
  ]),
  rename: change('give it another name', { name: Label }, ['not_found', 'conflict']),
  snapshot: change(
    'keep its disks as they are now, and its memory',
    { ...Snapshot, name: Label, memory: z.boolean(), quiesce: QuiesceMode, timeoutMs: FreezeTimeout },
    ['not_found', 'conflict', 'unsupported', 'timeout', 'exhausted', 'failed'],
  ),
  revert: change('go back to a snapshot', { ...Snapshot, start: z.boolean().optional() }, ['not_found', 'conflict', 'failed']),
  removeSnapshot: change('delete a snapshot', Snapshot, ['not_found', 'conflict']),
  clone: change('make a new domain of a snapshot', { spec: SpecRequest, from: z.strictObject({ domain: Uuid, ...Snapshot }) }, [
    'not_found',
    'conflict',
    'unsupported',
  ]),
  attach: change('give it a device', { device: DeviceRequestSchema }, ['not_found', 'conflict', 'unsupported', 'exhausted']),
  detach: change(
    'take a device away',
    {
      name: DeviceName,
      timeoutMs: z.int().min(0).optional(),
      force: z.boolean().optional(),
      deleteVolume: z.boolean().optional(),
    },
    ['not_found', 'conflict', 'timeout'],
  ),
  resizeDisk: change('make a disk larger', { name: DeviceName, sizeBytes: DiskBytes }, ['not_found', 'conflict', 'exhausted']),
  changeMedium: change('put an image into a CD drive, or take it out', { name: DeviceName, medium: MediumName.nullable() }, [
    'not_found',
    'conflict',
  ]),
  migrate: change(
    'move it to where it is expected, while it runs',
    {
      offer: z.looseObject({ address: z.string(), port: z.int().min(1).max(65535), fingerprint: z.string(), token: z.string() }),
      parameters: MigrationRequestSchema,
    },
    ['not_found', 'conflict', 'unsupported', 'unavailable', 'failed', 'aborted'],
  ),
} as const satisfies Partial<Record<keyof Toolstack, Operation>>
export type OperationName = keyof typeof TOOLSTACK_OPERATIONS

/** @throws Fault `invalid` that names each field which is wrong. */
export const checkRequest = (name: OperationName, input: Readonly<Record<string, unknown>>): void =>
  void checked(name, TOOLSTACK_OPERATIONS[name].input, input)

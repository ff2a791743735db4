/**
 * What the control plane does to an instance, as sagas. A step that changes something on a host sends one command with the saga's id in
 * its own (given twice, done once) and the claim's fence (an older server is refused); what the host answers goes into the instance's row
 * in the same transaction as the fact that the step is done.
 *
 *   create:  place (read) --> define --> start        undo: destroy on the host; the row says `failed` and why
 *   clone:   the same, on the disks of a snapshot; on the host that has it
 *   copy:    the same of an instance as it is now: `copy.ts`
 *   VERB, set, snapshot, revert, snapshot-delete, attach, detach, resize, insert, eject:  carry-out
 *   destroy: carry-out --> the row is kept, with `destroyed_at`; by force also where the host does not do it (`forget.ts`)
 *   migrate: `migrate.ts`
 *   clean-up: carry-out of a destroy on a host that came back with what was destroyed meanwhile; the row stays as it is
 */
import { Fault, retryable, toFault, type Bytes, type Json } from '@typevisor/base'
import {
  SETTING_NAMES,
  VERB_NAMES,
  type DeviceRequest,
  type DomainId,
  type DomainName,
  type DomainSpec,
  type Quiesce,
  type SettingsPatch,
  type SnapshotId,
  type SnapshotName,
  type VerbName,
} from '@typevisor/model'
import { defineSaga, type SagaDefinition, type SagaEffect, type SqlExecutor, type StepContext } from '@typevisor/saga'
import type { AgentRegistry } from '../agents/registry.ts'
import type { AgentPort, Command, DomainReply } from '@typevisor/api/agent-wire'
import { agentOf, AWAY_ATTEMPTS, failure } from './agent-steps.ts'
import {
  destroyedEffect,
  dumpEffect,
  eventEffect,
  failedEffect,
  memoryEffect,
  nameEffect,
  leftBehindEffect,
  observedEffect,
  releaseEffect,
  settingsEffect,
  rootDiskEffect,
  snapshotsEffect,
} from './effects.ts'
import { dropStep, snapshotOfCopy, takeStep, type CopySource } from './copy.ts'
import { migrate } from './migrate.ts'

export interface InstanceServices {
  readonly agents: AgentRegistry
  readonly database: SqlExecutor
}

export type CreateInput = {
  readonly id: DomainId
  readonly spec: DomainSpec
  readonly host: string | null
  readonly start: boolean
  /** Of a clone. */
  readonly from?: { readonly domain: DomainId; readonly snapshot: SnapshotId }
  /** Of a copy. */
  readonly copy?: CopySource
}
type OnHost = {
  readonly id: DomainId
  readonly name: string
  readonly host: string | null
}
type OfSnapshot = OnHost & { readonly snapshot: { readonly id: SnapshotId; readonly name: SnapshotName } }
export type SnapshotInput = OfSnapshot & {
  readonly memory: boolean
  readonly quiesce: Quiesce
  readonly timeoutMs: number
}
export type RevertInput = OfSnapshot & { readonly start: boolean }
export type SetInput = OnHost & {
  readonly patch: SettingsPatch
  readonly timeoutMs: number
  /** What it held before; more is set aside when the operation begins. */
  readonly memoryBytes: number
}
/** `name` is the one of before. */
export type RenameInput = OnHost & { readonly to: DomainName }
type OfDevice = OnHost & { readonly device: string }
export type AttachInput = OfDevice & { readonly request: DeviceRequest }
export type DetachInput = OfDevice & { readonly timeoutMs: number; readonly force: boolean; readonly deleteVolume: boolean }
export type ResizeInput = OfDevice & { readonly sizeBytes: Bytes }
/** `medium` null: eject. */
export type MediumInput = OfDevice & { readonly medium: string | null }
export type VerbInput = OnHost & {
  readonly verb: VerbName
  /** Of `destroy`: whether or not its host does it. */
  readonly force?: boolean
}
export type BuildInput = { readonly image: string; readonly host: string }

type Context<I> = StepContext<I, InstanceServices>

async function carryOut<I>(context: Context<I>, host: string, id: DomainId, verb: VerbName, step: string): Promise<DomainReply> {
  const agent = await agentOf(context, host)
  const commandId = `${context.sagaId}.${step}`
  const reply = await agent.call('domain.carry-out', { commandId, fence: context.fence, id, verb }, { signal: context.signal })
  if (verb === 'destroy') await lastWords(context, agent, reply)
  return reply
}

/** How long the end of an instance waits for what its host has said of it. */
const LAST_WORDS_LIMIT_MS = 5000

/** The host's last words about the instance, its end among them, are told before the control plane says that it is gone. */
async function lastWords<I>({ services, signal }: Context<I>, agent: AgentPort, { sequence }: DomainReply): Promise<void> {
  await services.agents.takenIn(agent, sequence, LAST_WORDS_LIMIT_MS, signal)
}

const observed = (id: string, { domain, sequence }: DomainReply): SagaEffect[] =>
  domain
    ? [
        observedEffect(id, domain, sequence),
        snapshotsEffect(id, domain),
        settingsEffect(id, domain),
        rootDiskEffect(id, domain),
        dumpEffect(id, domain),
      ]
    : []

const hostOf = (outputs: Readonly<Record<string, Json>>): string => {
  const place = outputs['place']
  if (typeof place !== 'string') throw new Fault('internal', 'create: no host was placed')
  return place
}

/** Chosen in the transaction that accepted the creation. */
async function placedHost({ database }: InstanceServices, id: DomainId): Promise<string> {
  const { rows } = await database.query('SELECT host FROM instance WHERE id = $1', [id])
  const host = rows[0]?.['host']
  if (typeof host !== 'string') throw new Fault('internal', `create ${id}: its row names no host`)
  return host
}

const creation = (verb: 'create' | 'clone' | 'copy') =>
  defineSaga<CreateInput, InstanceServices>({
    name: `instance.${verb}`,
    steps: [
      {
        name: 'place',
        do: async ({ input, services }) => ({ output: await placedHost(services, input.id) }),
      },
      ...(verb === 'copy' ? [takeStep] : []),
      {
        name: 'define',
        attemptCountMax: AWAY_ATTEMPTS,
        do: async (context) => {
          const { input, signal, outputs } = context
          const agent = await agentOf(context, hostOf(outputs))
          const commandId = `${context.sagaId}.define`
          const params = { commandId, fence: context.fence, id: input.id, spec: input.spec }
          const from = input.copy ? { domain: input.copy.domain, snapshot: snapshotOfCopy(context.sagaId) } : input.from
          const reply = from
            ? await agent.call('domain.clone', { ...params, from }, { signal })
            : await agent.call('domain.define', params, { signal })
          return { effects: observed(input.id, reply) }
        },
        undo: async (context) => {
          await carryOut(context, hostOf(context.outputs), context.input.id, 'destroy', 'undo')
        },
      },
      ...(verb === 'copy' ? [dropStep] : []),
      {
        name: 'start',
        do: async (context) => {
          if (!context.input.start) return
          const reply = await carryOut(context, hostOf(context.outputs), context.input.id, 'start', 'start')
          return { effects: observed(context.input.id, reply) }
        },
      },
    ],
    onDone: ({ sagaId, input }) => [
      releaseEffect(input.id, sagaId),
      eventEffect('instance.created', input.id, input.spec.name, { operation: sagaId }),
    ],
    onFailed: ({ sagaId, input }, fault) => [
      failedEffect(input.id, fault),
      releaseEffect(input.id, sagaId),
      ...(input.copy ? [releaseEffect(input.copy.domain, sagaId)] : []),
      eventEffect('instance.failed', input.id, input.spec.name, failure(verb, sagaId, fault)),
    ],
  })

type Send<I> = (
  agent: AgentPort,
  head: Command & { readonly id: DomainId },
  input: I,
  signal: AbortSignal,
) => Promise<DomainReply>

/**
 * One command to the instance's host. `told`: what its events say beside; `undo`: the command that takes it back, where there is one; `failed`:
 * what its row is again when it was not done.
 */
function commandSaga<I extends OnHost>(
  verb: string,
  send: Send<I>,
  {
    told = () => ({}),
    undo,
    failed = () => [],
  }: { told?: (input: I) => Record<string, Json>; undo?: Send<I>; failed?: (input: I) => SagaEffect[] } = {},
): SagaDefinition<I, InstanceServices> {
  const sent = async (context: Context<I>, step: string, command: Send<I>) => {
    const { input, signal, sagaId, fence } = context
    if (input.host === null) throw new Fault('conflict', `${verb} ${input.name}: it is on no host`)
    const agent = await agentOf(context, input.host)
    const reply = await command(agent, { commandId: `${sagaId}.${step}`, fence, id: input.id }, input, signal)
    if (!reply.domain) throw new Fault('not_found', `${verb} ${input.name}: host ${input.host} does not have it`)
    return { effects: observed(input.id, reply) }
  }
  return defineSaga<I, InstanceServices>({
    name: `instance.${verb}`,
    steps: [
      {
        name: 'carry-out',
        do: (context) => sent(context, verb, send),
        ...(undo ? { undo: (context) => sent(context, 'undo', undo).catch(nothingToUndo), attemptCountMax: AWAY_ATTEMPTS } : {}),
      },
    ],
    onDone: ({ sagaId, input }) => [
      releaseEffect(input.id, sagaId),
      eventEffect('instance.operation', input.id, input.name, { verb, operation: sagaId, outcome: 'done', ...told(input) }),
    ],
    onFailed: ({ sagaId, input }, fault) => [
      ...failed(input),
      releaseEffect(input.id, sagaId),
      eventEffect('instance.operation', input.id, input.name, {
        outcome: 'failed',
        ...failure(verb, sagaId, fault),
        ...told(input),
      }),
    ],
  })
}

/** A host that cannot do it, or has nothing of the kind, has not done it either. */
function nothingToUndo(error: unknown): void {
  if (!(error instanceof Fault) || (error.code !== 'unsupported' && error.code !== 'not_found')) throw error
}

const verbSaga = (verb: Exclude<VerbName, 'destroy'>): SagaDefinition<VerbInput, InstanceServices> =>
  commandSaga(verb, (agent, head, _input, signal) => agent.call('domain.carry-out', { ...head, verb }, { signal }))

const told = ({ snapshot }: OfSnapshot) => ({ snapshot: snapshot.name })
const deleteSnapshot: Send<OfSnapshot> = (agent, head, { snapshot }, signal) =>
  agent.call('domain.snapshot-delete', { ...head, snapshot: snapshot.id }, { signal })

const snapshot = commandSaga<SnapshotInput>(
  'snapshot',
  (agent, head, { snapshot: { id, name }, memory, quiesce, timeoutMs }, signal) =>
    agent.call('domain.snapshot', { ...head, snapshot: id, name, memory, quiesce, timeoutMs }, { signal }),
  { told, undo: deleteSnapshot },
)
const revert = commandSaga<RevertInput>(
  'revert',
  (agent, head, { snapshot: { id }, start }, signal) => agent.call('domain.revert', { ...head, snapshot: id, start }, { signal }),
  { told },
)
const set = commandSaga<SetInput>(
  'set',
  (agent, head, { patch, timeoutMs }, signal) => agent.call('domain.set', { ...head, patch, timeoutMs }, { signal }),
  {
    told: ({ patch: { reset = [], ...given } }) => ({
      settings: SETTING_NAMES.filter((name) => given[name] !== undefined || reset.includes(name)).join(', '),
    }),
    failed: ({ id, memoryBytes }) => [memoryEffect(id, memoryBytes)],
  },
)
const snapshotDelete = commandSaga<OfSnapshot>('snapshot-delete', deleteSnapshot, { told })

const rename = commandSaga<RenameInput>(
  'rename',
  (agent, head, { to }, signal) => agent.call('domain.rename', { ...head, name: to }, { signal }),
  {
    told: ({ to }) => ({ to }),
    failed: ({ id, name }) => [nameEffect(id, name)],
  },
)

const toldDevice = ({ device }: OfDevice) => ({ device })
const attach = commandSaga<AttachInput>(
  'attach',
  (agent, head, { request }, signal) => agent.call('domain.attach', { ...head, device: request }, { signal }),
  { told: toldDevice },
)
const detach = commandSaga<DetachInput>(
  'detach',
  (agent, head, { device, timeoutMs, force, deleteVolume }, signal) =>
    agent.call('domain.detach', { ...head, name: device, timeoutMs, force, deleteVolume }, { signal }),
  { told: toldDevice },
)
const resize = commandSaga<ResizeInput>(
  'resize',
  (agent, head, { device, sizeBytes }, signal) => agent.call('domain.resize', { ...head, name: device, sizeBytes }, { signal }),
  { told: toldDevice },
)
const mediumSaga = (verb: 'insert' | 'eject') =>
  commandSaga<MediumInput>(
    verb,
    (agent, head, { device, medium }, signal) => agent.call('domain.medium', { ...head, name: device, medium }, { signal }),
    { told: toldDevice },
  )

/** How long a destruction by force waits for a host that is connected and does not answer. */
const FORCE_LIMIT_MS = 10_000
const FORCE_ATTEMPTS = 3

/** false: the host is away, refuses or hangs, and is not waited for. */
async function destroyedThere(context: Context<VerbInput>, host: string): Promise<boolean> {
  const { services, signal, sagaId, fence, input, attempt, log } = context
  const agent = services.agents.get(host)
  if (agent === null) return false
  const limit = AbortSignal.any([signal, AbortSignal.timeout(FORCE_LIMIT_MS)])
  try {
    const reply = await agent.call(
      'domain.carry-out',
      { commandId: `${sagaId}.destroy`, fence, id: input.id, verb: 'destroy' },
      { signal: limit },
    )
    await lastWords(context, agent, reply)
    return true
  } catch (error) {
    signal.throwIfAborted()
    const fault = toFault(error)
    if (fault.code === 'stale_fence' || (retryable(fault) && attempt < FORCE_ATTEMPTS)) throw fault
    log.warn('instance.left_behind', { host, instance: input.id, fault: fault.message })
    return false
  }
}

const destroy = defineSaga<VerbInput, InstanceServices>({
  name: 'instance.destroy',
  steps: [
    {
      name: 'carry-out',
      attemptCountMax: AWAY_ATTEMPTS,
      do: async (context) => {
        const { id, host, force } = context.input
        if (host === null) return
        if (force)
          return (await destroyedThere(context, host)) ? undefined : { effects: [leftBehindEffect(id, host, context.input)] }
        await carryOut(context, host, id, 'destroy', 'destroy')
      },
    },
  ],
  onDone: ({ sagaId, input }) => [
    destroyedEffect(input.id),
    eventEffect('instance.destroyed', input.id, input.name, { operation: sagaId }),
  ],
  onFailed: ({ sagaId, input }, fault) => [
    failedEffect(input.id, { ...fault, message: `destroy: ${fault.message}` }),
    releaseEffect(input.id, sagaId),
    eventEffect('instance.operation', input.id, input.name, { outcome: 'failed', ...failure('destroy', sagaId, fault) }),
  ],
})

const cleanUp = defineSaga<VerbInput, InstanceServices>({
  name: 'instance.clean-up',
  steps: [
    {
      name: 'carry-out',
      attemptCountMax: AWAY_ATTEMPTS,
      do: async (context) => {
        if (context.input.host !== null) await carryOut(context, context.input.host, context.input.id, 'destroy', 'destroy')
      },
    },
  ],
  onDone: ({ sagaId, input }) => [
    eventEffect('instance.operation', input.id, input.name, { verb: 'clean-up', operation: sagaId, outcome: 'done' }),
  ],
  // The host lists it at the next connection too: then it is tried again.
  onFailed: ({ sagaId, input }, fault) => [
    eventEffect('instance.operation', input.id, input.name, { outcome: 'failed', ...failure('clean-up', sagaId, fault) }),
  ],
})

const buildImage = defineSaga<BuildInput, InstanceServices>({
  name: 'image.build',
  steps: [
    {
      name: 'build',
      attemptCountMax: 2,
      do: async (context) => {
        const { input, signal, sagaId, fence } = context
        const agent = await agentOf(context, input.host)
        const image = await agent.call(
          'image.build',
          { commandId: `${sagaId}.build`, fence, name: input.image },
          { signal, progress: (fraction, message) => context.progress(fraction, message) },
        )
        return { output: { digest: image.digest }, effects: [imageEffect(input.host, image)] }
      },
    },
  ],
  onDone: ({ sagaId, input }) => [eventEffect('image.built', null, input.image, { operation: sagaId, host: input.host })],
  onFailed: ({ sagaId, input }, fault) => [
    eventEffect('image.failed', null, input.image, { host: input.host, ...failure('build', sagaId, fault) }),
  ],
})

export function imageEffect(host: string, image: import('@typevisor/api/agent-wire').AgentImage): SagaEffect & { kind: 'sql' } {
  return {
    kind: 'sql',
    text: `INSERT INTO image (host, name, title, digest, size_bytes, virtual_bytes, minimum_memory_bytes, default_user, contents, built_at)
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, to_timestamp($10::double precision / 1000))
      ON CONFLICT (host, name) DO UPDATE SET title = excluded.title, digest = excluded.digest, size_bytes = excluded.size_bytes,
        virtual_bytes = excluded.virtual_bytes, minimum_memory_bytes = excluded.minimum_memory_bytes, default_user = excluded.default_user,
        contents = excluded.contents, built_at = excluded.built_at`,
    values: [
      host,
      image.name,
      image.title,
      image.digest,
      image.sizeBytes,
      image.virtualBytes,
      image.minimumMemoryBytes,
      image.defaultUser,
      JSON.stringify(image.contents),
      image.builtAt,
    ],
  }
}

export const INSTANCE_SAGAS = {
  create: creation('create'),
  clone: creation('clone'),
  copy: creation('copy'),
  snapshot,
  revert,
  rename,
  set,
  snapshotDelete,
  migrate,
  attach,
  detach,
  resize,
  insert: mediumSaga('insert'),
  eject: mediumSaga('eject'),
  destroy,
  cleanUp,
  buildImage,
  ...(Object.fromEntries(VERB_NAMES.filter((verb) => verb !== 'destroy').map((verb) => [verb, verbSaga(verb)])) as Record<
    Exclude<VerbName, 'destroy'>,
    SagaDefinition<VerbInput, InstanceServices>
  >),
}

/** The handlers of instances and images: they parse nothing (the table did) and decide little; what takes time is a saga. */
import { bytes, Fault, fieldFault, type Clock, type IdSource, type Json } from '@typevisor/base'
import type { ParsedBody, Reply } from '@typevisor/api'
import {
  chordsOfText,
  parseChord,
  MEMORY_BLOCK_BYTES,
  parseCpuList,
  parseDomainName,
  parseImageName,
  policyOf,
  AUTOSTART_ORDER_DEFAULT,
  type DeviceInfo,
  type DeviceVerbName,
  type DomainId,
  type DomainSpec,
  type SettingsPatch,
  type VerbName,
} from '@typevisor/model'
import { pgCreateSaga, sagaId, type SagaEngine, type SagaId, type SagaStore, type SqlExecutor } from '@typevisor/saga'
import type { AgentRegistry } from '../agents/registry.ts'
import { recordEntry } from '../db/audit.ts'
import type { Db } from '../db/database.ts'
import type { Call, Handlers } from '../http/handler.ts'
import { settledWithin, toWireOperation } from '../operations/operation.ts'
import { insertInstance, untilSomeHost } from './create.ts'
import { eventEffect } from './effects.ts'
import { listInstances, needInstance, toWireInstance, toWireSnapshot, type InstanceRow } from './queries.ts'
import { serveStream } from './streams.ts'
import type { BuildInput, CreateInput } from './sagas.ts'
import {
  beginDeviceVerb,
  beginMigration,
  beginOperation,
  beginRename,
  beginSet,
  beginSnapshotVerb,
  beginVerb,
  holdForCopy,
  needSnapshot,
  type SnapshotRequest,
} from './verbs.ts'

export interface InstanceHandlerOptions {
  readonly db: Db
  readonly database: SqlExecutor
  readonly agents: AgentRegistry
  readonly engine: SagaEngine
  readonly store: SagaStore
  readonly ids: IdSource
  readonly clock: Clock
}

/** Of what every call for an operation on an instance has. */
interface OperationCall extends Pick<Call<'instance.start'>, 'audit' | 'entry' | 'signal'> {
  readonly params: { readonly instance: string }
  readonly query: { readonly wait: number }
}
type InstanceHandlers = Pick<Handlers, Extract<keyof Handlers, `instance.${string}` | `image.${string}`>>

const AGENT_READ_WAIT_MS = 0

const toWireDevice = (device: DeviceInfo): Reply<'instance.device'> => ({ ...device, forwards: [...device.forwards] })

/** JSON as it goes into a saga: the specs are made of nothing else. */
const asJson = (value: object): Json => value as Json

/** How far it may grow. @throws Fault `invalid` naming the field. */
function growthOf(body: ParsedBody<'instance.create'>): Pick<DomainSpec, 'vcpuCountMax' | 'memoryBytesMax' | 'hugePages'> {
  const { vcpuCount, vcpuCountMax, memoryBytes, memoryBytesMax, hugePages } = body
  const refuse = (path: string, got: number, want: string): Fault => fieldFault({ path: `body.${path}`, want, got: String(got) })
  if (vcpuCountMax !== undefined && vcpuCountMax < vcpuCount)
    throw refuse('vcpuCountMax', vcpuCountMax, `at least vcpuCount, ${vcpuCount}`)
  if (memoryBytesMax !== undefined && memoryBytesMax < memoryBytes)
    throw refuse('memoryBytesMax', memoryBytesMax, `at least memoryBytes, ${memoryBytes}`)
  if (memoryBytesMax !== undefined && (memoryBytesMax - memoryBytes) % MEMORY_BLOCK_BYTES !== 0)
    throw refuse('memoryBytesMax', memoryBytesMax, `memoryBytes and a multiple of ${MEMORY_BLOCK_BYTES} more`)
  return {
    ...(vcpuCountMax === undefined ? {} : { vcpuCountMax }),
    ...(memoryBytesMax === undefined ? {} : { memoryBytesMax: bytes(memoryBytesMax) }),
    ...(hugePages ? { hugePages } : {}),
  }
}

/** What was so before it could be asked is left out. */
function begunBy({ architecture, firmware, tpm, bootOrder }: ParsedBody<'instance.create'>): Partial<DomainSpec> {
  return {
    ...(architecture === 'x86_64' ? {} : { architecture }),
    ...(firmware === 'bios' ? {} : { firmware }),
    ...(tpm ? { tpm } : {}),
    ...(bootOrder.join() === 'disk' ? {} : { bootOrder }),
  }
}

/** @throws Fault `invalid` when a list of CPUs is none. */
function patchOf(body: Omit<ParsedBody<'instance.set'>, 'timeoutMs'>): SettingsPatch {
  const { memoryBytes, memoryTargetBytes, affinityHard, affinitySoft, vcpuCount, cpuWeight, cpuCapPercent, ...rest } = body
  const sets = (path: string, lists: readonly string[]) => lists.map((list, at) => parseCpuList(`body.${path}[${at}]`, list))
  return {
    ...(vcpuCount === undefined ? {} : { vcpuCount }),
    ...(memoryBytes === undefined ? {} : { memoryBytes: bytes(memoryBytes) }),
    ...(memoryTargetBytes === undefined ? {} : { memoryTargetBytes: bytes(memoryTargetBytes) }),
    ...(cpuWeight === undefined ? {} : { cpuWeight }),
    ...(cpuCapPercent === undefined ? {} : { cpuCapPercent }),
    ...(affinityHard === undefined ? {} : { affinityHard: sets('affinityHard', affinityHard) }),
    ...(affinitySoft === undefined ? {} : { affinitySoft: sets('affinitySoft', affinitySoft) }),
    ...policyOf(rest),
    ...(rest.diskLimits === undefined ? {} : { diskLimits: rest.diskLimits }),
    ...(rest.reset === undefined ? {} : { reset: rest.reset }),
  }
}

export function instanceHandlers(options: InstanceHandlerOptions): InstanceHandlers {
  const { db, database, agents, engine, store, ids } = options

  const accepted = async (
    id: string,
    instance: string | null,
    waitSeconds: number,
    signal: AbortSignal,
  ): Promise<Reply<'instance.create'>> => {
    engine.wake()
    const operation = await settledWithin(engine, store, id, waitSeconds, signal)
    if (instance === null) return { operation: toWireOperation(operation, { engine, agents }), instance: null }
    const row = await needInstance(db, instance).catch((error: unknown) => {
      if (error instanceof Fault && error.code === 'not_found') return null
      throw error
    })
    return { operation: toWireOperation(operation, { engine, agents }), instance: row && toWireInstance(row, agents) }
  }

  /** One operation on an instance; `begin` is its transaction, of which the audit entry is a part, and answers the sagas that it let go of. */
  const operate = async (
    call: OperationCall,
    begin: (tx: SqlExecutor, id: SagaId, row: InstanceRow) => Promise<SagaId[] | void>,
  ) => {
    const row = await needInstance(db, call.params.instance)
    call.audit(row.id, row.name)
    const id = sagaId(ids.next())
    const dropped = await database.transaction(async (tx) => {
      const letGo = await begin(tx, id, row)
      await recordEntry(tx, call.entry(row.id, row.name))
      return letGo
    })
    if (dropped) engine.drop(dropped)
    return accepted(id, row.id, call.query.wait, call.signal)
  }

  const verb =
    (name: VerbName, force = false) =>
    (call: OperationCall) =>
      operate(call, (tx, saga, row) => beginVerb(tx, agents, { saga, row, verb: name, force }))

  /** Whatever is done with a snapshot of an instance. */
  const snapshotVerb = (call: OperationCall, request: SnapshotRequest) =>
    operate(call, (tx, id, row) => beginSnapshotVerb(tx, agents, id, row, request))

  /** Whatever is done with a device of an instance. */
  const deviceVerb = (call: OperationCall, name: DeviceVerbName, input: Parameters<typeof beginDeviceVerb>[4]) =>
    operate(call, (tx, id, row) => beginDeviceVerb(tx, id, row, name, input))

  const devicesOf = async (instance: string, signal: AbortSignal) => {
    const { id, agent, row } = await holder(instance, signal)
    return { row, devices: (await agent.call('domain.devices', { id }, { signal })).map(toWireDevice) }
  }

  /** A new row, and what is to fill it. */
  const begin = async (
    call: Pick<Call<'instance.create'>, 'caller' | 'entry' | 'signal' | 'query'>,
    verb: 'create' | 'clone' | 'copy',
    spec: DomainSpec,
    { host, ...input }: Omit<CreateInput, 'id' | 'spec' | 'host'> & { readonly host: string | undefined },
    also: (tx: SqlExecutor, saga: SagaId) => Promise<void> = async () => {},
  ) => {
    const [instance, saga] = [ids.next(), ids.next()]
    await database.transaction(async (tx) => {
      const id = instance as DomainId // our own, new
      const createdBy = call.caller?.accountName ?? 'nobody'
      const placed = await insertInstance(tx, agents, { id, spec, host, createdBy })
      const whole: CreateInput = { id, spec, host: placed, ...input }
      await beginOperation(tx, { id: sagaId(saga), name: `instance.${verb}`, resource: instance, input: asJson(whole) })
      await also(tx, sagaId(saga))
      const event = eventEffect('instance.state', instance, spec.name, { from: null, to: 'creating', cause: 'requested' })
      await tx.query(event.text, event.values)
      await recordEntry(tx, call.entry(instance, spec.name))
    })
    return accepted(saga, instance, call.query.wait, call.signal)
  }

  /** Of a new instance like another, with a name and addresses of its own. */
  const specLike = async (row: InstanceRow, body: ParsedBody<'instance.clone'>): Promise<DomainSpec> => {
    const { spec: stored } = await db.selectFrom('instance').select('spec').where('id', '=', row.id).executeTakeFirstOrThrow()
    const old = stored as unknown as DomainSpec // as `instance.create` or this has written it
    const name = parseDomainName(body.name)
    return {
      ...old,
      name,
      cloudInit: { ...old.cloudInit, hostname: name },
      forwards: body.forwards ?? old.forwards.map((forward) => ({ ...forward, hostPort: 0 })),
      labels: body.labels ?? old.labels,
    }
  }

  /** The agent that holds the instance, for what is only read or passed through. */
  const holder = async (idOrName: string, signal: AbortSignal) => {
    const row = await needInstance(db, idOrName)
    if (row.host === null) throw new Fault('conflict', `instance ${row.name}: it is on no host`)
    return { row, id: row.id as DomainId, agent: await agents.need(row.host, AGENT_READ_WAIT_MS, signal) }
  }

  /** The host that builds an image: the one that is asked for, or any. */
  const builder = async (asked: string | undefined): Promise<string> => {
    const connected = agents.names()
    if (asked === undefined) {
      const [any] = connected
      if (any === undefined) throw new Fault('unavailable', 'no host is connected')
      return any
    }
    if (connected.includes(asked)) return asked
    const row = await db.selectFrom('host').select('name').where('name', '=', asked).executeTakeFirst()
    const details = [{ path: 'body.host', want: connected.join(', ') || 'a connected host', got: asked }]
    if (!row) throw new Fault('not_found', `host ${asked}: there is none of this name`, { details })
    throw new Fault('conflict', `host ${asked} is not connected`, { details })
  }

  return {
    'instance.list': ({ query }) => listInstances(db, agents, query),
    'instance.get': async ({ params }) => toWireInstance(await needInstance(db, params.instance), agents),
    'instance.create': async (call) => {
      const { body } = call
      const spec: DomainSpec = {
        name: parseDomainName(body.name),
        vcpuCount: body.vcpuCount,
        memoryBytes: bytes(body.memoryBytes),
        image: parseImageName(body.image),
        rootDiskBytes: bytes(body.rootDiskBytes),
        cloudInit: { hostname: body.name, user: body.user ?? null, sshKeys: body.sshKeys, userData: body.userData ?? null },
        forwards: body.forwards,
        labels: body.labels,
        diskFull: body.diskFull,
        ...growthOf(body),
        hotplugPortCount: body.hotplugPortCount,
        ...(body.usb ? { usb: true } : {}),
        ...begunBy(body),
        // What is as it is by itself is left to an older agent, too.
        ...(body.autostart ? { autostart: true } : {}),
        ...(body.autostartOrder === AUTOSTART_ORDER_DEFAULT ? {} : { autostartOrder: body.autostartOrder }),
        ...(body.onCrash === 'keep' ? {} : { onCrash: body.onCrash }),
      }
      await untilSomeHost(database, agents, body.host, call.signal)
      return begin(call, 'create', spec, { host: body.host, start: body.start })
    },
    'instance.start': verb('start'),
    'instance.pause': verb('pause'),
    'instance.unpause': verb('unpause'),
    'instance.shutdown': verb('shutdown'),
    'instance.reboot': verb('reboot'),
    'instance.dump': verb('dump'),
    'instance.poweroff': verb('poweroff'),
    'instance.save': verb('save'),
    'instance.restore': verb('restore'),
    'instance.destroy': (call) => verb('destroy', call.query.force === 'true')(call),
    'instance.set': (call) =>
      operate(call, (tx, id, row) => {
        const { timeoutMs, ...body } = call.body
        return beginSet(tx, agents, id, row, patchOf(body), timeoutMs)
      }),
    'instance.rename': (call) => operate(call, (tx, id, row) => beginRename(tx, id, row, parseDomainName(call.body.name))),
    'instance.snapshots': async ({ params }) => {
      const items = (await needInstance(db, params.instance)).snapshots.map(toWireSnapshot)
      return { items, total: items.length, nextCursor: null }
    },
    'instance.snapshot': (call) => snapshotVerb(call, { verb: 'snapshot', ...call.body }),
    'instance.revert': (call) => snapshotVerb(call, { verb: 'revert', name: call.params.snapshot, ...call.body }),
    'instance.snapshot-delete': (call) => snapshotVerb(call, { verb: 'snapshot-delete', name: call.params.snapshot }),
    'instance.migrate': (call) => {
      const { host: to, ...parameters } = call.body
      return operate(call, (tx, id, row) => beginMigration(tx, agents, id, row, { to, parameters }))
    },
    'instance.devices': async ({ params, signal }) => {
      const { devices: items } = await devicesOf(params.instance, signal)
      return { items, total: items.length, nextCursor: null }
    },
    'instance.device': async ({ params, signal }) => {
      const { devices, row } = await devicesOf(params.instance, signal)
      const found = devices.find(({ name }) => name === params.device)
      if (found) return found
      throw new Fault('not_found', `device ${params.device} of ${row.name}: there is none of this name`, {
        details: [{ path: 'params.device', want: 'a device of the instance', got: params.device }],
      })
    },
    'instance.attach': (call) => {
      const { device: name, ...rest } = call.body
      return deviceVerb(call, 'attach', { device: name, request: { name, ...rest } as Json })
    },
    'instance.detach': (call) => {
      const { force, delete: deleteVolume, timeoutMs } = call.query
      const how = { timeoutMs, force: force === 'true', deleteVolume: deleteVolume === 'true' }
      return deviceVerb(call, 'detach', { device: call.params.device, ...how })
    },
    'instance.resize': (call) => deviceVerb(call, 'resize', { device: call.params.device, sizeBytes: call.body.sizeBytes }),
    'instance.insert': (call) => deviceVerb(call, 'insert', { device: call.params.device, medium: call.body.medium }),
    'instance.eject': (call) => deviceVerb(call, 'eject', { device: call.params.device, medium: null }),
    'instance.clone': async (call) => {
      const { params, body } = call
      const row = await needInstance(db, params.instance)
      const { id: snapshot } = needSnapshot(row.snapshots, params.snapshot, row)
      if (row.host === null) throw new Fault('conflict', `clone ${row.name}: it is on no host`)
      const spec = await specLike(row, body)
      const from = { domain: row.id as DomainId, snapshot } // an instance and its domain carry the same id
      return begin(call, 'clone', spec, { host: row.host, start: body.start, from })
    },
    'instance.copy': async (call) => {
      const { params, body } = call
      const row = await needInstance(db, params.instance)
      if (row.host === null) throw new Fault('conflict', `copy ${row.name}: it is on no host`)
      const { quiesce, timeoutMs, start } = body
      const copy = { domain: row.id as DomainId, host: row.host, quiesce, timeoutMs } // an instance and its domain carry the same id
      return begin(call, 'copy', await specLike(row, body), { host: row.host, start, copy }, (tx, saga) =>
        holdForCopy(tx, saga, row),
      )
    },
    'instance.exec': async (call) => {
      const { id, agent, row } = await holder(call.params.instance, call.signal)
      await call.begin(row.id, row.name)
      const { argv, stdinBase64, timeoutMs } = call.body
      return agent.call(
        'domain.exec',
        { id, argv, timeoutMs, ...(stdinBase64 === undefined ? {} : { stdinBase64 }) },
        { signal: call.signal },
      )
    },
    'instance.addresses': async ({ params, signal }) => {
      const { id, agent } = await holder(params.instance, signal)
      const items = await agent.call('domain.addresses', { id }, { signal })
      return { items: items.map((item) => ({ ...item, addresses: [...item.addresses] })) }
    },
    'instance.statistics': async ({ params, signal }) => {
      const { id, agent } = await holder(params.instance, signal)
      const { disks, nics, vcpus = [], ...rest } = await agent.call('domain.statistics', { id }, { signal })
      const unknown = { readTimeNs: null, writeTimeNs: null, flushTimeNs: null }
      return { ...rest, vcpus: [...vcpus], disks: disks.map((disk) => ({ ...unknown, ...disk })), nics: [...nics] }
    },
    'instance.screenshot': async ({ params, signal }) => {
      const { id, agent } = await holder(params.instance, signal)
      const { contentBase64 } = await agent.call('domain.screenshot', { id }, { signal })
      return { type: 'image/png', contentBase64 }
    },
    'instance.keys': async (call) => {
      const { keys = [], text = '' } = call.body
      const chords = [...keys.map((chord) => parseChord(chord, 'body.keys')), ...chordsOfText(text, 'body.text')]
      const { id, agent, row } = await holder(call.params.instance, call.signal)
      await call.begin(row.id, row.name)
      await agent.call('domain.keys', { id, chords }, { signal: call.signal })
      return {}
    },
    'instance.file-get': async (call) => {
      const { id, agent, row } = await holder(call.params.instance, call.signal)
      await call.begin(row.id, row.name)
      const { path, from, limitBytes: limit } = call.query
      return agent.call('domain.file-get', { id, path, from, limit }, { signal: call.signal })
    },
    'instance.file-put': async (call) => {
      const { id, agent, row } = await holder(call.params.instance, call.signal)
      await call.begin(row.id, row.name)
      await agent.call('domain.file-put', { id, ...call.body }, { signal: call.signal })
      return {}
    },
    'instance.password': async (call) => {
      const { id, agent, row } = await holder(call.params.instance, call.signal)
      await call.begin(row.id, row.name)
      await agent.call('domain.password', { id, ...call.body }, { signal: call.signal })
      return {}
    },
    'instance.log': async ({ params, query, signal }) => {
      const { id, agent } = await holder(params.instance, signal)
      return agent.call('domain.console-log', { id, from: query.from, limit: query.limit }, { signal })
    },
    'instance.console': async (call, socket) => {
      const { id, agent, row } = await holder(call.params.instance, call.signal)
      await call.begin(row.id, row.name)
      await serveStream({ agent, kind: 'console', domain: id, fromOffset: call.query.from, signal: call.signal }, socket)
    },
    'instance.vnc': async (call, socket) => {
      const { id, agent, row } = await holder(call.params.instance, call.signal)
      await call.begin(row.id, row.name)
      await serveStream({ agent, kind: 'vnc', domain: id, signal: call.signal }, socket)
    },
    'image.list': async () => {
      const rows = await db.selectFrom('image').selectAll().orderBy('name').orderBy('host').execute()
      const items = rows.map((row) => ({
        name: row.name,
        title: row.title,
        host: row.host,
        digest: row.digest,
        sizeBytes: row.size_bytes,
        virtualBytes: row.virtual_bytes,
        minimumMemoryBytes: row.minimum_memory_bytes,
        defaultUser: row.default_user,
        contents: row.contents,
        builtAt: row.built_at.getTime(),
      }))
      return { items, total: items.length, nextCursor: null }
    },
    'image.build': async (call) => {
      const host = await builder(call.body.host)
      const input: BuildInput = { image: call.params.image, host }
      const saga = ids.next()
      const { image } = call.params
      await database.transaction(async (tx) => {
        await pgCreateSaga(tx, {
          id: sagaId(saga),
          name: 'image.build',
          resource: `image:${host}/${image}`,
          input: asJson(input),
        })
        await recordEntry(tx, call.entry(image, image))
      })
      return accepted(saga, null, call.query.wait, call.signal)
    },
  }
}

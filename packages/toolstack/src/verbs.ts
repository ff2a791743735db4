/**
 * The lifecycle as sagas: what each verb does to a domain, step by step, each step safe to run twice.
 *
 * The first step of each checks that the verb may be done and is recorded, so that after a crash the saga goes on from the
 * fact that it may rather than asking again of a state that it has already changed itself.
 *
 * Saves. A save is worth something only until its guest goes on behind it: restored later it would meet disks that have moved on, and
 * destroy them. Therefore, whatever is killed, dies or cannot be removed in between:
 *
 *   - Each save has a path of its own, of domain and saga, that no other save has or had. What the driver finds there when it is asked a
 *     second time was made by this save; an old file lies elsewhere and is never taken for a new one.
 *   - Only the path that the state `saved` names is ever restored, and the state has left `saved` on disk before the guest's first
 *     instruction behind the save (`take-over`). What dies after that is crashed, never saved again.
 *   - A file that neither a state nor a snapshot names is litter: it is never read, and removing it is tried again with each later save,
 *     restore, poweroff, revert and destroy. Only `destroy` insists.
 */
import { bytes, Fault, millis, type Json } from '@typevisor/base'
import { assertCan, assertGuest, type DomainDump, type DomainName, type VerbName } from '@typevisor/model'
import { defineSaga, type SagaDefinition, type StepOutcome } from '@typevisor/saga'
import { attach, detach, medium, resize, settleDevices, stayingDevices } from './devices.ts'
import { forgetNotes, set } from './settings.ts'
import { clone, removeAllSnapshots, removeSnapshot, revert, snapshot } from './snapshots.ts'
import { holdsProcess } from './state.ts'
import {
  correctClock,
  dropSaves,
  imageOf,
  noteForwards,
  recordStep,
  rootVolume,
  seedStep,
  seedVolume,
  seenBy,
  volumesEver,
  type Context,
  type DefineInput,
  type OfDomain,
  type ToolstackServices,
  type VerbInput,
} from './steps.ts'
import type { StoredDomain } from './stored-domain.ts'

const define = defineSaga<DefineInput, ToolstackServices>({
  name: 'domain.define',
  steps: [
    {
      name: 'check',
      do: async ({ input, services }) => {
        const holder = services.ledger.byName(input.spec.name)
        if (holder && holder.id !== input.id)
          throw new Fault('conflict', `define ${input.spec.name}: domain ${holder.id} has this name`)
        const image = await imageOf(services, input.spec.image)
        const { guests } = await services.driver.capabilities()
        assertGuest(input.spec, { what: `define ${input.spec.name}`, boot: image.boot, guests })
        const { memoryBytes, diskBytes } = image.minimum
        const short = (path: string, want: number, got: number) =>
          new Fault('invalid', `${path}: got ${got}, image ${image.name} wants at least ${want}`, {
            details: [{ path, want: `at least ${want}`, got: String(got) }],
          })
        if (input.spec.memoryBytes < memoryBytes) throw short('memoryBytes', memoryBytes, input.spec.memoryBytes)
        if (input.spec.rootDiskBytes < diskBytes) throw short('rootDiskBytes', diskBytes, input.spec.rootDiskBytes)
      },
    },
    {
      name: 'root-disk',
      do: async ({ input, services, signal }) => {
        const image = await imageOf(services, input.spec.image)
        const clone = () => services.volumes.clone(rootVolume(input.id), image.rootDisk, input.spec.rootDiskBytes, { signal })
        // A run before this one may have made it of an older version, which fits no kernel but its own; nothing has used it yet.
        if ((await clone()).basePath !== image.rootDisk.path) {
          await services.volumes.remove(rootVolume(input.id))
          await clone()
        }
        return { output: (input.spec.boot ?? image.boot) as unknown as Json }
      },
      undo: ({ input, services }) => services.volumes.remove(rootVolume(input.id)),
    },
    seedStep,
    recordStep(),
  ],
})

/** The check that opens every verb. */
const check = (verb: VerbName) => ({
  name: 'check',
  do: async ({ input, services }: Context<VerbInput>): Promise<StepOutcome> => {
    const domain = services.ledger.need(input.id)
    assertCan(verb, domain.state, domain.name)
    return { output: domain.state as unknown as Json }
  },
})

/** Marks the verb as the cause of what the driver reports while `work` runs. */
const intending =
  (verb: VerbName, work: (context: Context<VerbInput>, domain: StoredDomain) => Promise<void>) =>
  async (context: Context<VerbInput>): Promise<void> => {
    const { services, input } = context
    services.intend(input.id, verb)
    try {
      await work(context, services.ledger.need(input.id))
    } finally {
      services.intend(input.id, null)
    }
  }

/** `cause`: of its transitions, where nobody asked. */
export const start = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.start',
  steps: [
    check('start'),
    {
      name: 'create',
      do: intending('start', async ({ services, signal }, domain) => {
        const staying = stayingDevices(domain)
        if (staying !== domain) await services.ledger.update(staying)
        await services.driver.create(staying, { signal })
      }),
      undo: intending('poweroff', async ({ services, input }, domain) => {
        await services.driver.destroy(input.id)
        if (domain.forwards.length > 0) await services.ledger.update({ ...domain, forwards: [] })
      }),
    },
    {
      name: 'unpause',
      do: intending('start', async ({ services, input, signal }) => {
        await noteForwards(services, input.id, signal)
        await forgetNotes(services, input.id, 'made')
        await services.driver.unpause(input.id, { signal })
        await services.ledger.enter(input.id, { kind: 'running' }, { cause: input.cause ?? 'requested' })
      }),
      undo: ({ services, input: { id, cause = 'requested' } }) =>
        services.ledger.enter(id, { kind: 'stopped', cause, detail: null }, { cause }),
    },
  ],
})

const pause = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.pause',
  steps: [
    check('pause'),
    {
      name: 'pause',
      do: intending('pause', async ({ services, input, signal }) => {
        await services.driver.pause(input.id, { signal })
        await services.ledger.enter(input.id, { kind: 'paused', cause: 'requested' }, { cause: 'requested' })
      }),
      undo: intending('unpause', async (context) => {
        const { services, input } = context
        const seen = await seenBy(context)
        if (seen?.kind === 'paused' && seen.cause === 'requested') await services.driver.unpause(input.id)
        else if (seen?.kind !== 'running') return
        await services.ledger.enter(input.id, { kind: 'running' }, { cause: 'requested' })
      }),
    },
  ],
})

const unpause = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.unpause',
  steps: [
    check('unpause'),
    {
      name: 'unpause',
      do: intending('unpause', async ({ services, input, signal }) => {
        await services.driver.unpause(input.id, { signal })
        await forgetNotes(services, input.id, 'goes-on')
        await services.ledger.enter(input.id, { kind: 'running' }, { cause: 'requested' })
      }),
      undo: intending('pause', async (context) => {
        const { services, input } = context
        const seen = await seenBy(context)
        if (seen?.kind === 'running') await services.driver.pause(input.id)
        else if (seen?.kind !== 'paused') return
        await services.ledger.enter(input.id, { kind: 'paused', cause: 'requested' }, { cause: 'requested' })
      }),
    },
  ],
})

const SHUTDOWN_LIMIT_MS = 60_000

/** Asks; when the guest does not power off in time the fault says so, and what then is the caller's choice (`poweroff`). */
const shutdown = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.shutdown',
  steps: [
    check('shutdown'),
    {
      name: 'await',
      attemptCountMax: 1,
      do: intending('shutdown', async ({ services, input, signal, attempt }, domain) => {
        const now = () => services.ledger.get(input.id)?.state.kind ?? 'stopped'
        // It may have powered off while we were gone.
        if (attempt > 1 && now() === 'running') await services.look(input.id, signal)
        if (now() === 'stopped') return
        const limitMs = input.timeoutMs ?? SHUTDOWN_LIMIT_MS
        const withdrawn = new AbortController()
        const inner = AbortSignal.any([withdrawn.signal, signal])
        const ended = services.untilNotRunning(input.id, inner)
        try {
          await services.driver.requestShutdown(input.id, { signal })
          const inTime = await Promise.race([
            ended.then(() => true),
            services.clock.sleep(millis(limitMs), { signal: inner }).then(() => false),
          ])
          if (!inTime) throw new Fault('timeout', `shutdown ${domain.name}: the guest did not power off in ${limitMs} ms`)
          if (now() !== 'stopped')
            throw new Fault('failed', `shutdown ${domain.name}: the guest did not power off, it is ${now()}`)
        } finally {
          ended.catch(() => {})
          withdrawn.abort()
        }
      }),
    },
  ],
})

const reboot = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.reboot',
  steps: [
    check('reboot'),
    { name: 'reset', do: intending('reboot', ({ services, input, signal }) => services.driver.reset(input.id, { signal })) },
  ],
})

const poweroff = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.poweroff',
  steps: [
    check('poweroff'),
    {
      name: 'destroy',
      do: intending('poweroff', async ({ services, input }) => {
        await services.driver.destroy(input.id)
        await services.ledger.enter(input.id, { kind: 'stopped', cause: 'requested', detail: null }, { cause: 'requested' })
      }),
    },
    { name: 'drop-saves', do: dropSaves },
  ],
})

const save = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.save',
  steps: [
    check('save'),
    {
      name: 'save',
      do: intending('save', async ({ services, input, signal, sagaId }, domain) => {
        if (domain.state.kind === 'saved') return
        await settleDevices(services, input.id)
        const savePath = services.saves.pathOf(input.id, sagaId)
        const { sizeBytes } = await services.driver.save(input.id, savePath, { signal })
        await services.ledger.enter(input.id, { kind: 'saved', savePath, sizeBytes: sizeBytes as never }, { cause: 'requested' })
      }),
    },
    { name: 'drop-saves', do: dropSaves },
  ],
})

const restore = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.restore',
  steps: [
    check('restore'),
    {
      name: 'restore',
      do: intending('restore', async ({ services, signal }, domain) => {
        if (domain.state.kind === 'saved') await services.driver.restore(domain, domain.state.savePath, { signal })
      }),
      /** Back to the save for as long as it is in force. A guest that was taken over stays, running or paused: there is no other copy of it. */
      undo: intending('poweroff', async (context, domain) => {
        const { services, input } = context
        const seen = await seenBy(context)
        if (seen === null) return
        if (seen.kind === 'running') {
          await services.ledger.enter(input.id, { kind: 'running' }, { cause: 'requested' })
          await dropSaves(context)
          return
        }
        if (domain.state.kind !== 'saved') return
        await services.driver.destroy(input.id)
        if (domain.forwards.length > 0) await services.ledger.update({ ...domain, forwards: [] })
      }),
    },
    {
      /** From here on the save is spent. */
      name: 'take-over',
      do: intending('restore', async ({ services, input, signal }, domain) => {
        if (domain.state.kind !== 'saved') return
        await noteForwards(services, input.id, signal)
        await services.ledger.enter(input.id, { kind: 'paused', cause: 'requested' }, { cause: 'requested' })
      }),
    },
    {
      name: 'unpause',
      do: intending('restore', async (context) => {
        const { services, input, signal } = context
        await services.driver.unpause(input.id, { signal })
        await forgetNotes(services, input.id, 'goes-on')
        await services.ledger.enter(input.id, { kind: 'running' }, { cause: 'requested' })
        correctClock(context)
      }),
    },
    { name: 'drop-saves', do: dropSaves },
  ],
})

export async function takeDump({ services, input, signal, sagaId }: Context<VerbInput>): Promise<DomainDump> {
  const path = services.saves.pathOf(input.id, sagaId)
  const format = 'elf'
  const { sizeBytes } = await services.driver.dumpCore(input.id, path, { signal, format })
  const domain = services.ledger.need(input.id)
  const dump = { path, format, sizeBytes: bytes(sizeBytes), takenAt: services.clock.now() } as const
  await services.ledger.update({ ...domain, dump })
  return dump
}

/** The guest's memory as a core file beside its saves; the newest alone is kept. */
const dump = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.dump',
  steps: [
    check('dump'),
    {
      name: 'dump',
      attemptCountMax: 1,
      do: async (context) => void (await takeDump(context)),
    },
    { name: 'drop-saves', do: dropSaves },
  ],
})

export type RenameInput = OfDomain & { readonly name: DomainName }

/** The guest is not told: what it calls itself, and its seed, are its own. */
const rename = defineSaga<RenameInput, ToolstackServices>({
  name: 'domain.rename',
  steps: [
    {
      name: 'check',
      do: async ({ input, services }) => {
        const holder = services.ledger.byName(input.name)
        if (holder && holder.id !== input.id)
          throw new Fault('conflict', `rename to ${input.name}: domain ${holder.id} has this name`)
        return { output: services.ledger.need(input.id).name }
      },
    },
    {
      name: 'rename',
      do: (context) => call(context, context.input.name),
      undo: async (context) => {
        const before = context.outputs['check']
        if (typeof before === 'string' && context.services.ledger.get(context.input.id)) await call(context, before as DomainName)
      },
    },
  ],
})

/** The ledger first: a driver's record is of words alone. */
async function call({ services, input }: Context<RenameInput>, name: DomainName): Promise<void> {
  const domain = services.ledger.need(input.id)
  await services.ledger.update({ ...domain, name, spec: { ...domain.spec, name } })
  await services.driver.rename(input.id, name)
}

/** Removes the domain with its disks and snapshots. A domain that is not there is destroyed already: no check. */
const destroy = defineSaga<VerbInput, ToolstackServices>({
  name: 'domain.destroy',
  steps: [
    {
      name: 'end',
      do: async ({ services, input }) => {
        services.intend(input.id, 'destroy')
        try {
          await services.driver.destroy(input.id)
        } finally {
          services.intend(input.id, null)
        }
      },
      /** What was ended stays ended, and the record says so. */
      undo: async (context) => {
        const { services, input } = context
        const domain = services.ledger.get(input.id)
        if (!domain || !holdsProcess(domain.state.kind) || (await seenBy(context))?.kind !== 'gone') return
        await services.ledger.enter(input.id, { kind: 'stopped', cause: 'requested', detail: null }, { cause: 'requested' })
      },
    },
    {
      name: 'remove',
      do: async ({ services, input }) => {
        // First: while its disk is another's it is refused, and all the rest stays with it.
        await services.volumes.remove(rootVolume(input.id))
        await services.driver.forget(input.id)
        for (const volume of await volumesEver(services, input.id)) {
          await services.volumes.remove(volume)
          await removeAllSnapshots(services, volume)
        }
        await services.volumes.remove(seedVolume(input.id))
        // Last: without its disks a save is worth nothing, and a domain whose disks stay is still `saved`.
        await services.saves.keepOnly(input.id, [])
      },
    },
    { name: 'record', do: ({ services, input }) => services.ledger.forget(input.id) },
  ],
})

export const TOOLSTACK_SAGAS = {
  define,
  start,
  pause,
  unpause,
  shutdown,
  reboot,
  poweroff,
  save,
  restore,
  dump,
  destroy,
  snapshot,
  revert,
  'snapshot-delete': removeSnapshot,
  clone,
  rename,
  set,
  attach,
  detach,
  resize,
  medium,
} as const satisfies Record<VerbName, SagaDefinition<VerbInput, ToolstackServices>> & Record<string, unknown>

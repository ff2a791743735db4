/**
 * Settings that change while a guest runs: checked against the specification and what the driver can do, brought to the domain's process if
 * there is one, and recorded. From its record on a setting is in force at each start.
 *
 *   check --> apply (undo: what it was) --> record
 */
import { Fault, type Json } from '@typevisor/base'
import {
  assertCanSet,
  assertSettings,
  changedDriverSettings,
  changedSettings,
  patched,
  type DomainId,
  type DomainSettings,
  type DriverSettingName,
  type SettingsPatch,
} from '@typevisor/model'
import { defineSaga } from '@typevisor/saga'
import type { DriverCapabilities } from './ports.ts'
import { holdsProcess } from './state.ts'
import { seenBy, type Context, type ToolstackServices } from './steps.ts'
import type { StoredDomain } from './stored-domain.ts'

const NOT_TAKEN_BACK = 'was not taken back'

/** For drivers, too: of what is given, all can be. @throws Fault `unsupported` naming the first that cannot, with the driver's reason. */
export function assertSettable(
  domain: string,
  names: Iterable<DriverSettingName>,
  settings: DomainSettings,
  can: DriverCapabilities['settings'],
): void {
  for (const name of names) {
    const capability = can[name]
    if (settings[name] === undefined || capability.can) continue
    throw new Fault('unsupported', `set ${domain}: ${name}: ${capability.reason}`, {
      details: [{ path: name, want: 'nothing', got: JSON.stringify(settings[name]) }],
    })
  }
}

/** A guest under TCG may take some seconds to let go of a processor. */
export const SETTINGS_TIMEOUT_MS = 30_000

export type SetInput = { readonly id: DomainId; readonly patch: SettingsPatch; readonly timeoutMs?: number }

interface Change {
  readonly before: DomainSettings
  readonly after: DomainSettings
  /** What the guest had not taken up before. */
  readonly notes: readonly string[]
}
const changeOf = ({ outputs }: Context<SetInput>): Change => outputs['check'] as unknown as Change

async function apply(
  { input, services, signal }: Context<SetInput>,
  { before, after }: Omit<Change, 'notes'>,
): Promise<readonly string[]> {
  const domain = services.ledger.need(input.id)
  if (!holdsProcess(domain.state.kind)) return []
  if (changedDriverSettings(before, after).length === 0) return domain.settingsNotes ?? []
  const timeoutMs = input.timeoutMs ?? SETTINGS_TIMEOUT_MS
  return (await services.driver.applySettings({ ...domain, settings: before }, after, { signal, timeoutMs })).notes
}

export const set = defineSaga<SetInput, ToolstackServices>({
  name: 'domain.set',
  steps: [
    {
      name: 'check',
      do: async ({ input, services }) => {
        const domain = services.ledger.need(input.id)
        assertCanSet(domain.state.kind, domain.name)
        const before = domain.settings ?? {}
        const after = patched(before, input.patch)
        const disks = domain.hardware.devices.flatMap((device) => (device.kind === 'disk' ? [device.name] : []))
        assertSettings(after, domain.spec, disks)
        const { settings: can } = await services.driver.capabilities()
        const changed = changedSettings(before, after)
        // What was plugged into a guest that stands still could not be taken back.
        if (domain.state.kind === 'paused' && changed.includes('vcpuCount'))
          throw new Fault('conflict', `set ${domain.name}: vcpuCount: it is paused, want stopped or running`)
        assertSettable(domain.name, changedDriverSettings(before, after), after, can)
        return { output: { before, after, notes: domain.settingsNotes ?? [] } as unknown as Json }
      },
    },
    {
      name: 'apply',
      attemptCountMax: 1,
      do: async (context) => ({ output: [...(await apply(context, changeOf(context)))] }),
      undo: async (context) => {
        const seen = await seenBy(context)
        if (seen === null || seen.kind === 'gone' || seen.kind === 'powered-off') return
        await takeBack(context)
      },
    },
    {
      name: 'record',
      do: async (context) => {
        const { input, services, outputs } = context
        await record(services, services.ledger.need(input.id), changeOf(context).after, outputs['apply'] as string[])
      },
      undo: async (context) => {
        const { input, services } = context
        const domain = services.ledger.get(input.id)
        const { before, notes } = changeOf(context)
        if (domain) await record(services, domain, before, notes)
      },
    },
  ],
})

/**
 * One by one, so that what the guest does not give back leaves the others as they were. A guest that does not take part must not hold its
 * domain for ever: what is left of the change is noted, and the next one of that setting begins from it.
 */
async function takeBack(context: Context<SetInput>): Promise<void> {
  const { input, services, log } = context
  const { before, after } = changeOf(context)
  const left: string[] = []
  let now = after
  for (const name of changedSettings(before, after)) {
    const { [name]: _changed, ...others } = now
    const next: DomainSettings = before[name] === undefined ? others : { ...others, [name]: before[name] }
    try {
      await apply(context, { before: now, after: next })
    } catch (error) {
      if (!(error instanceof Fault) || !['timeout', 'conflict', 'unsupported'].includes(error.code)) throw error
      log.warn('domain.set_left', { domain: input.id, setting: name, error: error.message })
      left.push(`${name} ${NOT_TAKEN_BACK}: ${error.message}`)
    }
    now = next
  }
  if (left.length > 0) await services.ledger.update({ ...services.ledger.need(input.id), settingsNotes: left })
}

async function record(
  { ledger }: ToolstackServices,
  domain: StoredDomain,
  settings: DomainSettings,
  notes: readonly string[],
): Promise<void> {
  const { settings: _old, settingsNotes: _notes, ...rest } = domain
  const isPlain = Object.keys(settings).length === 0
  await ledger.update({ ...rest, ...(isPlain ? {} : { settings }), ...(notes.length === 0 ? {} : { settingsNotes: notes }) })
}

/**
 * A machine that is made anew is what was set: what its guest had not taken up before is no news of it. One that goes on takes up now what
 * it could not while it stood still.
 */
export async function forgetNotes({ ledger }: ToolstackServices, id: DomainId, how: 'made' | 'goes-on'): Promise<void> {
  const { settingsNotes, ...rest } = ledger.need(id)
  if (!settingsNotes) return
  const kept = how === 'made' ? [] : settingsNotes.filter((note) => note.includes(NOT_TAKEN_BACK))
  if (kept.length < settingsNotes.length) await ledger.update(kept.length === 0 ? rest : { ...rest, settingsNotes: kept })
}

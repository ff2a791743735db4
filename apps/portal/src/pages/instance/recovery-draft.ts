/** What the form for crashes and restarts holds, and what it sends: only what is another than before. */
import type { Body } from '@typevisor/api'
import type { CrashAction } from '@typevisor/model'
import type { Instance } from '../../api/verbs.ts'
import { wholeOf } from '../../forms/whole.ts'

export interface RecoveryDraft {
  readonly onCrash: CrashAction
  readonly autostart: boolean
  /** As it is typed; empty: as at its creation. */
  readonly order: string
}

export const draftOf = ({ settings: { onCrash, autostart, autostartOrder } }: Instance): RecoveryDraft => ({
  onCrash,
  autostart,
  order: String(autostartOrder),
})

/** @throws Fault `invalid` of an order that is no number. */
export function bodyOf({ onCrash, autostart, order }: RecoveryDraft, { settings }: Instance): Body<'instance.set'> {
  const text = order.trim()
  return {
    ...(onCrash === settings.onCrash ? {} : { onCrash }),
    ...(autostart === settings.autostart ? {} : { autostart }),
    ...(text === '' || text === String(settings.autostartOrder) ? {} : { autostartOrder: wholeOf('autostartOrder', text) }),
    ...(text === '' ? { reset: ['autostartOrder' as const] } : {}),
  }
}

/** What the form for crashes and restarts holds, and what it sends: only what is another than before. */
import type { Body } from '@typevisor/api'
import type { CrashAction } from '@typevisor/model'
import type { Instance } from '../../api/verbs.ts'

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

export function bodyOf({ onCrash, autostart, order }: RecoveryDraft, { settings }: Instance): Body<'instance.set'> {
  const text = order.trim()
  return {
    ...(onCrash === settings.onCrash ? {} : { onCrash }),
    ...(autostart === settings.autostart ? {} : { autostart }),
    ...(text === '' || text === String(settings.autostartOrder) ? {} : { autostartOrder: Number(text) }),
    ...(text === '' ? { reset: ['autostartOrder' as const] } : {}),
  }
}

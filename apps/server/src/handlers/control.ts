/** The operations that the control plane answers from its own database: who is who, what was done, what happened. */
import type { Identity } from '@typevisor/identity'
import type { Handlers } from '../http/handler.ts'
import { accountHandlers } from './account.ts'
import { auditHandlers } from './audit.ts'
import { eventHandlers } from './event.ts'
import { platformHandlers, type PlatformHandlerOptions } from './platform.ts'
import { sessionHandlers } from './session.ts'
import { tokenHandlers } from './token.ts'

export type ControlHandlers = Pick<
  Handlers,
  Extract<
    keyof Handlers,
    `session.${string}` | `account.${string}` | `token.${string}` | `audit.${string}` | 'event.list' | `platform.${string}`
  >
>

export interface ControlHandlerOptions extends PlatformHandlerOptions {
  readonly identity: Identity
}

export function controlHandlers(options: ControlHandlerOptions): ControlHandlers {
  const { db, identity } = options
  return {
    ...sessionHandlers(identity),
    ...accountHandlers(db, identity),
    ...tokenHandlers(db, identity),
    ...auditHandlers(db),
    ...eventHandlers(db),
    ...platformHandlers(options),
  }
}

/** Tells whoever runs `typevisor` why it did not work. */
import { Fault, toFault } from '@typevisor/base'
import type { Terminal } from './terminal.ts'

export function report(error: unknown, terminal: Terminal, json: boolean): Fault {
  const fault = toFault(error)
  if (json) terminal.say(JSON.stringify({ error: fault.toJSON() }))
  else terminal.say(`typevisor: ${fault.message}`)
  if (fault.code === 'internal' && !(error instanceof Fault) && error instanceof Error) terminal.say(error.stack ?? '')
  return fault
}

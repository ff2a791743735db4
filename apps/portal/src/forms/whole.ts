import { fieldFault } from '@typevisor/base'

/** A whole number as people type it. @throws Fault `invalid` at the field. */
export function wholeOf(path: string, text: string): number {
  if (!/^\d{1,9}$/.test(text.trim())) throw fieldFault({ path, want: 'a whole number', got: JSON.stringify(text) })
  return Number(text)
}

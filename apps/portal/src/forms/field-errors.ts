/**
 * Puts the details of the server's fault at the fields of a form. A detail that belongs to no field of the form is given back, to be
 * shown above it: nothing that the server said is lost.
 */
import type { Fault, FaultDetail } from '@typevisor/base'

export interface FieldErrors<F extends string> {
  readonly at: Partial<Record<F, string>>
  readonly rest: readonly string[]
}

export const NO_ERRORS: FieldErrors<never> = { at: {}, rest: [] }

/** `body.forwards[1].hostPort` -> `forwards`; `labels.a/b` -> `labels`. */
export const fieldOf = (detailPath: string): string => /^(?:(?:body|query)\.)?([A-Za-z0-9_]+)/.exec(detailPath)?.[1] ?? ''

/** `aliases` names the form's field for a wire field, where the two differ. */
export function fieldErrors<F extends string>(
  details: readonly FaultDetail[],
  fields: readonly F[],
  aliases: Readonly<Record<string, F>> = {},
): FieldErrors<F> {
  const at: Partial<Record<F, string>> = {}
  const rest: string[] = []
  for (const detail of details) {
    const wire = fieldOf(detail.path)
    const field = aliases[wire] ?? fields.find((name) => name === wire)
    const inner = detail.path
      .replace(/^(?:body|query)\./, '')
      .slice(wire.length)
      .replace(/^\./, '')
    const said = `${inner === '' ? '' : `${inner}: `}${detail.want.replace(/^(?!want |at )/, 'want ')}${detail.got === '' ? '' : `, got ${detail.got}`}`
    if (field === undefined) rest.push(`${detail.path}: ${said}`)
    else at[field] = at[field] === undefined ? said : `${at[field]}; ${said}`
  }
  return { at, rest }
}

/**
 * A whole fault. A conflict that names no field is put at `taken`, where it can be mended: a name that another has. One that does name a
 * field, such as a port that is forwarded already, stays there.
 */
export function faultErrors<F extends string>(
  fault: Fault,
  fields: readonly F[],
  { aliases = {}, taken }: { readonly aliases?: Readonly<Record<string, F>>; readonly taken?: F } = {},
): FieldErrors<F> {
  const found = fieldErrors(fault.details, fields, aliases)
  if (taken === undefined || fault.code !== 'conflict' || fault.details.length > 0) return found
  return { ...found, at: { [taken]: fault.message } as Partial<Record<F, string>> /* F is one name */ }
}

/**
 * Puts the details of the server's fault at the fields of a form. A detail that belongs to no field of the form is given back, to be
 * shown above it: nothing that the server said is lost.
 */
import type { FaultDetail } from '@typevisor/base'

export interface FieldErrors<F extends string> {
  readonly at: Partial<Record<F, string>>
  readonly rest: readonly string[]
}

export const NO_ERRORS: FieldErrors<never> = { at: {}, rest: [] }

/** `body.forwards[1].hostPort` -> `forwards`; `labels.a/b` -> `labels`. */
export const fieldOf = (detailPath: string): string => /^(?:body\.)?([A-Za-z0-9_]+)/.exec(detailPath)?.[1] ?? ''

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
      .replace(/^body\./, '')
      .slice(wire.length)
      .replace(/^\./, '')
    const said = `${inner === '' ? '' : `${inner}: `}${detail.want.replace(/^(?!want |at )/, 'want ')}${detail.got === '' ? '' : `, got ${detail.got}`}`
    if (field === undefined) rest.push(`${detail.path}: ${said}`)
    else at[field] = at[field] === undefined ? said : `${at[field]}; ${said}`
  }
  return { at, rest }
}

/**
 * What a token may do: `NOUN:read`, `NOUN:write`, `*:read`, `*:write` or `*`. Writing a noun includes reading it, since the answer
 * of every change shows the thing. A scope only narrows: the role of the account is asked besides.
 */
export function scopeAllows(scopes: readonly string[], wanted: string): boolean {
  const [noun, verb] = wanted.split(':')
  return scopes.some((scope) => {
    if (scope === '*') return true
    const [scopeNoun, scopeVerb] = scope.split(':')
    return (scopeNoun === '*' || scopeNoun === noun) && (scopeVerb === 'write' || scopeVerb === verb)
  })
}

/** Whether everything that `wanted` allows is allowed by `have`: what may be handed on. */
export function scopesCover(have: readonly string[], wanted: readonly string[]): boolean {
  if (have.includes('*')) return true
  return wanted.every((scope) => {
    if (scope === '*') return have.includes('*:write')
    const [noun, verb] = scope.split(':')
    return have.some((held) => {
      const [heldNoun, heldVerb] = held.split(':')
      return (heldNoun === '*' || heldNoun === noun) && (heldVerb === 'write' || heldVerb === verb)
    })
  })
}

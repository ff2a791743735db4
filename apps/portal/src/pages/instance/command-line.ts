/**
 * Words of a command line, as a person types them, for a guest that is asked without a shell: blanks part words, quotes and backslashes
 * keep them together, and nothing else has a meaning (no variables, no pipes).
 */
export type CommandLine =
  | { readonly ok: true; readonly argv: readonly string[] }
  | { readonly ok: false; readonly reason: string }

export function parseCommandLine(text: string): CommandLine {
  const argv: string[] = []
  let word: string | null = null
  let quote: string | null = null
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at] ?? ''
    if (quote !== null && character === quote) quote = null
    else if (character === '\\' && quote !== "'") {
      at += 1
      if (at === text.length) return { ok: false, reason: 'ends with a backslash' }
      word = (word ?? '') + (text[at] ?? '')
    } else if (quote !== null) word = (word ?? '') + character
    else if (character === '"' || character === "'") {
      quote = character
      word ??= ''
    } else if (/\s/.test(character)) {
      if (word !== null) argv.push(word)
      word = null
    } else word = (word ?? '') + character
  }
  if (quote !== null) return { ok: false, reason: `a ${quote} is not closed` }
  if (word !== null) argv.push(word)
  return argv.length === 0 ? { ok: false, reason: 'is empty' } : { ok: true, argv }
}

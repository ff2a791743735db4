/** `did you mean`: the known word nearest to what was typed, when it is near. */

/** Optimal string alignment: a letter more, less, other, or two swapped count one each. */
export function distance(one: string, other: string): number {
  let before: number[] = []
  let last = Array.from({ length: other.length + 1 }, (_, index) => index)
  for (let row = 1; row <= one.length; row += 1) {
    const line = [row]
    for (let column = 1; column <= other.length; column += 1) {
      const same = one[row - 1] === other[column - 1]
      const swapped = row > 1 && column > 1 && one[row - 1] === other[column - 2] && one[row - 2] === other[column - 1]
      const costs = [(last[column] ?? 0) + 1, (line[column - 1] ?? 0) + 1, (last[column - 1] ?? 0) + (same ? 0 : 1)]
      if (swapped) costs.push((before[column - 2] ?? 0) + 1)
      line.push(Math.min(...costs))
    }
    before = last
    last = line
  }
  return last[other.length] ?? 0
}

/** What people type that is near nothing: the words of other tools. */
const OTHERS: Readonly<Record<string, string>> = {
  ls: 'list',
  ps: 'list',
  show: 'get',
  rm: 'delete',
  remove: 'delete',
  delete: 'destroy',
  stop: 'shutdown',
  resume: 'unpause',
  run: 'exec',
  new: 'create',
  add: 'create',
  vm: 'instance',
  status: 'doctor',
}
const WORD_LENGTH_MAX = 40

/** null: nothing is near. A third of the letters may be wrong, and one always. */
export function nearest(word: string, known: readonly string[]): string | null {
  if (word.length === 0 || word.length > WORD_LENGTH_MAX) return null
  const other = Object.hasOwn(OTHERS, word) ? OTHERS[word] : undefined
  if (other !== undefined && known.includes(other)) return other
  const far = Math.max(1, Math.floor(word.length / 3))
  let best: string | null = null
  let least = far + 1
  for (const candidate of known) {
    const begins = word.length >= 3 && candidate.startsWith(word)
    const cost = begins ? 0.5 : distance(word, candidate)
    if (cost < least) [best, least] = [candidate, cost]
  }
  return best
}

/** ` (did you mean list?)`, or nothing. */
export function didYouMean(word: string, known: readonly string[]): string {
  const near = nearest(word, known)
  return near === null ? '' : ` (did you mean ${near}?)`
}

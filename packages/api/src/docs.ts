/** The parts of `docs/toolstack.md` that are made of tables, between `<!-- begin NAME -->` and `<!-- end -->`. */
import { FAULTS } from '@typevisor/base'
import { HAPPENINGS, lifeDiagram, verbTable, type Happening } from '@typevisor/model'

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')

const PARTS: Readonly<Record<string, () => string>> = {
  life: () => `\`\`\`mermaid\n${lifeDiagram()}\n\`\`\``,
  verbs: verbTable,
  happenings: () =>
    table(
      ['what happens', 'from', 'to', 'cause'],
      Object.values<Happening>(HAPPENINGS).map(({ title, from, to, cause }) => [title, from.join(', '), to, `\`${cause}\``]),
    ),
  faults: () =>
    table(
      ['code', 'means', 'try again'],
      Object.entries(FAULTS).map(([code, { means, retryable }]) => [`\`${code}\``, means, retryable ? 'yes' : 'no']),
    ),
}

/** @throws Error for a part that is not known. */
export const generated = (text: string): string =>
  text.replaceAll(/(<!-- begin (\S+) -->\n)[\s\S]*?(<!-- end -->)/g, (_, open: string, name: string, close: string) => {
    const part = PARTS[name]
    if (!part) throw new Error(`there is no part ${name}`)
    return `${open}\n${part()}\n\n${close}`
  })

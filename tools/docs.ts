/**
 * The parts of `docs/toolstack.md` that are made of tables and records, between `<!-- begin NAME -->` and `<!-- end -->`: `npm run generate`
 * writes them, a test compares.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { FAULTS } from '@typevisor/base'
import { HAPPENINGS, lifeDiagram, verbTable, type Happening } from '@typevisor/model'
import { conformanceTable, TOOLSTACK_OPERATIONS } from '@typevisor/toolstack'

const docs = join(import.meta.dirname, '../docs')

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')

const PARTS: Readonly<Record<string, () => string>> = {
  life: () => `\`\`\`mermaid\n${lifeDiagram()}\n\`\`\``,
  verbs: verbTable,
  operations: () =>
    table(
      ['method', 'what for', 'takes', 'fails as'],
      Object.entries(TOOLSTACK_OPERATIONS).map(([name, { summary, input, faults }]) => [
        `\`${name}\``,
        summary,
        Object.keys(input.shape)
          .filter((field) => !['id', 'commandId', 'fence'].includes(field))
          .map((field) => `\`${field}\``)
          .join(', '),
        faults.map((code) => `\`${code}\``).join(', '),
      ]),
    ),
  happenings: () =>
    table(
      ['what happens', 'from', 'to', 'cause'],
      Object.values<Happening>(HAPPENINGS).map(({ title, from, to, cause }) => [title, from.join(', '), to, `\`${cause}\``]),
    ),
  conformance: () =>
    conformanceTable(JSON.parse(readFileSync(join(docs, 'conformance.json'), 'utf8')) as Parameters<typeof conformanceTable>[0]),
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

if (import.meta.main) {
  const page = join(docs, 'toolstack.md')
  writeFileSync(page, generated(readFileSync(page, 'utf8')))
}

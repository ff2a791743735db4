/** What docs/cli.md shows, for tests that do it. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { run } from './child.ts'

/** Words of the lines of a section's code block, without their comments. */
export function documented(section: string): string[][] {
  const page = readFileSync(new URL('../../../../docs/cli.md', import.meta.url), 'utf8')
  const [, block = ''] = /```\n([\s\S]*?)```/.exec(page.split(`## ${section}\n`)[1] ?? '') ?? []
  return block
    .trim()
    .split('\n')
    .map((line) =>
      line
        .replace(/\s+#.*$/, '')
        .split(' ')
        .slice(1),
    )
}

/** Runs commands of which each has the exit code 0, and answers what it says. */
export const succeeds =
  (env: NodeJS.ProcessEnv) =>
  async (...words: string[]): Promise<string> => {
    const { code, said } = await run(words, env)
    assert.equal(code, 0, `${words.join(' ')}: ${said}`)
    return said
  }

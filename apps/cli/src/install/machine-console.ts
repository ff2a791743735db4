/** For tests: what a machine says on its serial console. */
import type { ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'

/** The first line that matches. `heard` is given each. @throws with the last lines when the machine ends before. */
export async function untilLine(machine: ChildProcess, pattern: RegExp, heard: (line: string) => void): Promise<string> {
  const last: string[] = []
  if (!machine.stdout) throw new Error('the machine has no console')
  for await (const raw of createInterface({ input: machine.stdout })) {
    // The firmware colours its lines.
    const line = raw.replaceAll(/\u001B\[[0-9;?=]*[A-Za-z]|\r|\u001Bc/g, '')
    if (pattern.test(line)) return line
    heard(line)
    last.push(line)
    if (last.length > 40) last.shift()
  }
  throw new Error(`the machine ended:\n${last.join('\n')}`)
}

/**
 * Passwords are asked for on the terminal, unseen and twice, or come from standard input or a file: what stands among the words of a
 * command is seen by every user of the machine (`ps`) and stays in the shell's history.
 */
import { Fault } from '@typevisor/base'

const CTRL_C = 0x03
const CTRL_D = 0x04
const CTRL_U = 0x15
const BACKSPACE = new Set([0x08, 0x7f])
const LINE_END = new Set([0x0a, 0x0d])

/** What a key does to the line typed so far: bytes, since a character may come in pieces. */
export function typed(line: readonly number[], key: number): number[] | 'end' | 'leave' {
  if (LINE_END.has(key)) return 'end'
  if (key === CTRL_C || (key === CTRL_D && line.length === 0)) return 'leave'
  if (key === CTRL_U) return []
  if (BACKSPACE.has(key)) {
    // A whole character of UTF-8: its last byte, and the continuation bytes before it.
    let end = line.length - 1
    while (end > 0 && ((line[end] ?? 0) & 0xc0) === 0x80) end -= 1
    return line.slice(0, Math.max(0, end))
  }
  return key < 0x20 ? [...line] : [...line, key]
}

/** Lines of the terminal, which shows nothing of them meanwhile. What was typed ahead of the next line is kept for it. */
async function* unseenLines(): AsyncGenerator<string> {
  let line: number[] = []
  for await (const part of process.stdin) {
    for (const key of part as Buffer) {
      const next = typed(line, key)
      if (next === 'leave') return
      if (next === 'end') {
        yield Buffer.from(line).toString()
        line = []
      } else line = next
    }
  }
}

/** @throws Fault `invalid` where nobody can be asked, or the two differ; `aborted` at Ctrl-C. */
export async function askSecret(what: string): Promise<string> {
  const { stdin, stderr } = process
  if (stdin.isTTY !== true)
    throw new Fault(
      'invalid',
      `${what}: want a password: --password - reads it from standard input, --password @FILE from a file`,
    )
  stdin.setRawMode(true) // before the first question: nothing typed at it may be shown
  const lines = unseenLines()
  try {
    const answers: string[] = []
    for (const question of ['New password: ', 'The same again: ']) {
      stderr.write(question)
      const { value, done } = await lines.next()
      stderr.write('\n')
      if (done === true) throw new Fault('aborted', `${what}: no password was set`)
      answers.push(value)
    }
    if (answers[0] !== answers[1]) throw new Fault('invalid', `${what}: the two passwords differ; nothing was set`)
    return answers[0] as string
  } finally {
    stdin.setRawMode(false)
    await lines.return(undefined)
    stdin.pause()
  }
}

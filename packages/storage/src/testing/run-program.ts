import { spawn } from 'node:child_process'

/** What it printed, on both of its streams. Beside the test, which may be what it talks to. @throws Error with all of it when it fails. */
export function runProgram(program: string, words: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()))
    child.once('error', reject)
    child.once('close', (code) =>
      code === 0 ? resolve(said) : reject(new Error(`${program} ${words.join(' ')}: ${code}: ${said}`)),
    )
  })
}

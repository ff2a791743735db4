import { COMMANDS } from './commands.ts'
import { EXIT, exitCodeOf } from './exit-codes.ts'
import { report } from './report.ts'
import type { Terminal } from './terminal.ts'

const terminalOf = (): Terminal => ({
  env: process.env,
  out: (text) => void process.stdout.write(`${text}\n`),
  say: (text) => void process.stderr.write(`${text}\n`),
  width: process.stdout.isTTY ? process.stdout.columns : Number.POSITIVE_INFINITY,
  interactive: process.stdin.isTTY === true && process.stdout.isTTY === true,
})

/** Takes `--json` out wherever it stands before `--`. */
function splitJson(words: readonly string[]): { words: string[]; json: boolean } {
  const end = words.indexOf('--') === -1 ? words.length : words.indexOf('--')
  const head = words.slice(0, end)
  return { words: [...head.filter((word) => word !== '--json'), ...words.slice(end)], json: head.includes('--json') }
}

export async function run(argv: readonly string[]): Promise<number> {
  const terminal = terminalOf()
  const { words, json } = splitJson(argv)
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT.ok) // `typevisor ... | head`
    throw error
  })
  try {
    return await dispatch(words, terminal, json)
  } catch (error) {
    return exitCodeOf(report(error, terminal, json).code)
  }
}

async function dispatch(words: readonly string[], terminal: Terminal, json: boolean): Promise<number> {
  const [noun, verb, ...rest] = words
  if (noun === undefined || noun === 'help' || noun === '--help' || noun === '-h') {
    const { help } = await import('./help.ts')
    terminal.out(await help(noun === 'help' ? words.slice(1) : []))
    return noun === undefined ? EXIT.usage : EXIT.ok
  }
  if (noun === '--version' || noun === 'version') {
    const { VERSION } = await import('./version.ts')
    terminal.out(json ? JSON.stringify({ version: VERSION }) : VERSION)
    return EXIT.ok
  }
  const helpAt = words.findIndex((word) => word === '--help' || word === '-h')
  if (helpAt !== -1 && !words.slice(0, helpAt).includes('--')) {
    const { help } = await import('./help.ts')
    terminal.out(
      await help(
        words.slice(
          0,
          words.findIndex((word) => word.startsWith('-')),
        ),
      ),
    )
    return EXIT.ok
  }
  const command = Object.hasOwn(COMMANDS, noun) ? COMMANDS[noun] : undefined
  if (command) return (await command.load()).run(words.slice(1), terminal, json)
  const { runVerb } = await import('./verb.ts')
  return runVerb(noun, verb, rest, terminal, json)
}

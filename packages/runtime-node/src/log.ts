import type { Log, LogFields } from '@typevisor/base'

export type ConsoleLogLevel = 'debug' | 'info' | 'warn' | 'error'

const LEVELS = { debug: 10, info: 20, warn: 30, error: 40 } as const satisfies Record<ConsoleLogLevel, number>
const COLORS = { debug: 90, info: 36, warn: 33, error: 31 } as const satisfies Record<ConsoleLogLevel, number>

export interface ConsoleLogOptions {
  /** Default `info`. */
  readonly level?: ConsoleLogLevel
  /** Default: standard error. `isTTY` chooses lines for people, otherwise it is one JSON object a line. */
  readonly out?: { write(text: string): unknown; isTTY?: boolean }
  readonly now?: () => Date
}

export function consoleLog(options: ConsoleLogOptions = {}): Log {
  const { level: least = 'info', out = process.stderr, now = () => new Date() } = options
  const line = out.isTTY === true ? lineForPeople : lineOfJson
  const make = (base: LogFields): Log => {
    const add = (level: ConsoleLogLevel) => (event: string, fields?: LogFields) => {
      if (LEVELS[level] >= LEVELS[least]) out.write(line(now(), level, event, { ...base, ...fields }))
    }
    return {
      debug: add('debug'),
      info: add('info'),
      warn: add('warn'),
      error: add('error'),
      with: (fields) => make({ ...base, ...fields }),
    }
  }
  return make({})
}

const lineOfJson = (at: Date, level: ConsoleLogLevel, event: string, fields: LogFields): string =>
  `${JSON.stringify({ time: at.toISOString(), level, event, ...fields })}\n`

function lineForPeople(at: Date, level: ConsoleLogLevel, event: string, fields: LogFields): string {
  const shown = Object.entries(fields)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(
      ([name, value]) =>
        `\x1b[90m${name}=\x1b[0m${typeof value === 'string' && /[\s"\x00-\x1f\x7f]/.test(value) ? JSON.stringify(value) : escaped(String(value))}`,
    )
  return (
    `\x1b[90m${at.toISOString().slice(11, 23)}\x1b[0m \x1b[${COLORS[level]}m${level.padEnd(5)}\x1b[0m ${event} ${shown.join(' ')}`.trimEnd() +
    '\n'
  )
}

/** A guest's name must not move the cursor of an operator's terminal. */
const escaped = (text: string): string =>
  text.replaceAll(/[\x00-\x1f\x7f-\x9f]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`)

import type { Log, LogFields } from '@typevisor/base'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

export interface LogLine {
  readonly level: LogLevel
  readonly event: string
  readonly fields: LogFields
}

export interface MemoryLog extends Log {
  /** Of this log and all that came from it by `with`; the oldest go when there are too many. */
  readonly lines: readonly LogLine[]
  has(event: string): boolean
}

/** Keeps what is logged, for tests to look at. */
export function memoryLog(options: { lineCountMax?: number } = {}): MemoryLog {
  const { lineCountMax = 10_000 } = options
  const lines: LogLine[] = []
  const make = (base: LogFields): MemoryLog => {
    const add =
      (level: LogLevel) =>
      (event: string, fields: LogFields = {}) => {
        lines.push({ level, event, fields: { ...base, ...fields } })
        if (lines.length > lineCountMax) lines.splice(0, lines.length - lineCountMax)
      }
    return {
      lines,
      has: (event) => lines.some((line) => line.event === event),
      debug: add('debug'),
      info: add('info'),
      warn: add('warn'),
      error: add('error'),
      with: (fields) => make({ ...base, ...fields }),
    }
  }
  return make({})
}

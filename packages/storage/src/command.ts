/** What an ended program means. */
import { Fault } from '@typevisor/base'
import type { CommandOptions, CommandResult, CommandRunner } from './ports.ts'

/** Runs and wants exit code 0. @throws Fault `exhausted` when the program met a full disk, otherwise `failed` with its last words. */
export async function runChecked(
  runner: CommandRunner,
  argv: readonly [string, ...string[]],
  options?: CommandOptions,
): Promise<CommandResult> {
  const result = await runner.run(argv, options)
  if (result.exitCode === 0) return result
  throw commandFault(argv, result)
}

export function commandFault(argv: readonly string[], result: CommandResult): Fault {
  const words = result.stderr.trim().split('\n').slice(-3).join('; ')
  const full = /No space left on device|Disk quota exceeded|ENOSPC/i.test(result.stderr)
  return new Fault(
    full ? 'exhausted' : 'failed',
    `${argv[0]} ${argv[1] ?? ''}: ${full ? 'no space left: ' : `exit code ${result.exitCode}: `}${words || 'no output'}`,
  )
}

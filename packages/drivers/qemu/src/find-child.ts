import type { HostProcesses, ProcessIdentity } from './ports.ts'

export interface ChildMarks {
  /** null: nobody got to write it down. */
  readonly recorded: ProcessIdentity | null
  /** Among its arguments, side by side, and among nobody else's. */
  readonly arguments: readonly string[]
  readonly stderr: string
}

/** Live processes that are this child, by what was written down of it, else by what it has on its own. */
export async function findChild(processes: HostProcesses, marks: ChildMarks): Promise<readonly ProcessIdentity[]> {
  const { recorded, stderr } = marks
  if (!recorded) {
    const named = await processes.findByArguments(marks.arguments)
    // Whoever started it may have been killed before the child became its program: it has its arguments only then, and its standard error before.
    return named.length > 0 ? named : await processes.findByWriting(stderr)
  }
  const running = await processes.identity(recorded.pid)
  return running?.startTimeTicks === recorded.startTimeTicks && running.bootId === recorded.bootId ? [running] : []
}

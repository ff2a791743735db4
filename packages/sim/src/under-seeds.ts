/** Runs `live` under each seed. One that fails is told with the command that runs it again. `SEED=n` runs that one alone. */
export async function underSeeds(name: string, live: (seed: number) => Promise<unknown>, seeds: Iterable<number>): Promise<void> {
  const only = process.env['SEED']
  for (const seed of only === undefined ? seeds : [Number(only)])
    await toldWith(`SEED=${seed} npm test -- ${name}`, () => live(seed))
}

/** What fails in `work` has the command in its message: of a test's output the report keeps nothing else. */
export async function toldWith(command: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
  } catch (error) {
    const { message, stack } = error instanceof Error ? error : new Error(String(error))
    const told = new Error(`${command}\n${message}`, { cause: error })
    told.stack = `${command}\n${stack}`
    throw told
  }
}

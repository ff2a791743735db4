/** Two byte streams made one, each end as fast as the other takes it. */
import type { MigrationStream } from './ports.ts'

async function pump(from: MigrationStream, to: MigrationStream): Promise<void> {
  for await (const chunk of from.readable) await to.write(chunk)
  await to.end()
}

/** Resolves when both directions have ended; both are closed then, and whatever ended them is not told here: who uses them sees it. */
export async function joinStreams(a: MigrationStream, b: MigrationStream): Promise<void> {
  try {
    await Promise.all([pump(a, b), pump(b, a)])
  } catch {
    // One of the two is gone.
  } finally {
    a.close()
    b.close()
  }
}

/** Starts what carries the memory of a domain that comes by post-copy, so that it outlives this agent. */
import { readFile } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { Fault, millis, type Clock } from '@typevisor/base'
import type { MigrationOffer } from '@typevisor/model'
import { spawnDetached } from '@typevisor/runtime-node'
import type { CallOptions } from '@typevisor/toolstack'

const PROGRAM = join(import.meta.dirname, `carrier-process${extname(import.meta.filename)}`)
const START_LIMIT_MS = 20_000
const POLL = millis(20)

export interface CarrierOptions {
  /** Where this host is reached by others. */
  readonly address: string
  readonly clock: Clock
}

/** @returns where it listens. @throws Fault `failed` with its last words when it ends at once, `timeout`. */
export const startCarrier =
  ({ address, clock }: CarrierOptions) =>
  async ({ runFolder }: { readonly runFolder: string }, { signal }: CallOptions): Promise<MigrationOffer> => {
    const stderrFile = join(runFolder, 'carrier.log')
    const { exited } = await spawnDetached({
      argv: [process.execPath, '--disable-warning=ExperimentalWarning', PROGRAM, '--folder', runFolder, '--address', address],
      env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin' },
      stderrFile,
    })
    let hasEnded = false
    void exited.then(() => (hasEnded = true))
    for (const end = clock.monotonic() + START_LIMIT_MS; ; await clock.sleep(POLL, { signal })) {
      const offer = await readFile(join(runFolder, 'carrier.json'), 'utf8').catch(() => null)
      if (offer !== null) return JSON.parse(offer) as MigrationOffer
      if (hasEnded)
        throw new Fault(
          'failed',
          `carrier of ${runFolder}: ${await readFile(stderrFile, 'utf8').catch(() => 'it ended at once')}`,
        )
      if (clock.monotonic() > end)
        throw new Fault('timeout', `carrier of ${runFolder}: it does not listen after ${START_LIMIT_MS} ms`)
    }
  }

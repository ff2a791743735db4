/**
 * The embedded PostgreSQL, kept at work: when its postmaster ends by itself (killed for memory, a crash, a person) it is started again on
 * the same cluster, with the same socket and password, so that the pool finds it where it was. Until then what needs the database is
 * answered `unavailable`; sagas wait and go on. Nothing that was committed is lost: the WAL brings it back.
 *
 *   at work --ends--> starting <--fails, growing pause--+
 *      ^                 |                              |
 *      +-----------------+------------------------------+        stop: from anywhere
 */
import { Fault, millis, toFault, type Clock, type Log } from '@typevisor/base'
import { startEmbeddedPostgres, type EmbeddedPostgres, type EmbeddedPostgresOptions } from '@typevisor/runtime-node'

export interface KeptPostgres {
  readonly connection: EmbeddedPostgres['connection']
  stop(): Promise<void>
}

const PAUSE_MS_MIN = 100
const PAUSE_MS_MAX = 10_000

/** @throws Fault as `startEmbeddedPostgres` does, for the first start only. */
export async function keepPostgres(
  options: EmbeddedPostgresOptions & { readonly clock: Clock; readonly log: Log },
): Promise<KeptPostgres> {
  const { clock, log } = options
  const stopping = new AbortController()
  const { signal } = stopping
  let running: EmbeddedPostgres | null = await startEmbeddedPostgres(options)
  const { connection } = running

  const startAgain = async (): Promise<EmbeddedPostgres | null> => {
    for (let pauseMs = PAUSE_MS_MIN; !signal.aborted; pauseMs = Math.min(PAUSE_MS_MAX, pauseMs * 2)) {
      try {
        return await startEmbeddedPostgres(options)
      } catch (error) {
        log.error('postgres.restart_failed', { error: toFault(error).message, pauseMs })
        await clock.sleep(millis(pauseMs), { signal }).catch(() => {})
      }
    }
    return null
  }
  const keep = async (): Promise<void> => {
    while (running && !signal.aborted) {
      await running.exited({ signal }).catch(() => {})
      if (signal.aborted) return
      log.error('postgres.ended', { pid: running.postmaster.pid, consequence: 'it is started again' })
      running.release()
      running = await startAgain()
    }
  }
  const keeping = keep()
  let stopped: Promise<void> | undefined
  const stop = async (): Promise<void> => {
    stopping.abort(new Fault('aborted', 'the server stops'))
    await keeping
    await running?.stop()
  }
  return { connection, stop: () => (stopped ??= stop()) }
}

/**
 * The volume server as a process of its own: `node process.ts --dir DIR --version VERSION`. It ends when it is asked to, by its control
 * socket or by a signal, and when its folder has been removed and nobody is connected.
 */
import { existsSync } from 'node:fs'
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

const LOOK_EVERY_MS = 10_000
/** Whoever starts it sees by that that it lives (`starting.ts`). */
const WAKE_EVERY_MS = 250

// It is started again under running guests: what is loaded is compiled once.
enableCompileCache()
const [{ Fault, toFault }, { consoleLog, fileCalls, lockFile, realClock, realRng }, { openVolumeFolder }] = await Promise.all([
  import('@typevisor/base'),
  import('@typevisor/runtime-node'),
  import('@typevisor/storage'),
])
process.umask(0o077)
const log = consoleLog({ level: 'info' })
try {
  const { dir, version } = parseArgs({ options: { dir: { type: 'string' }, version: { type: 'string' } } }).values
  if (dir === undefined || version === undefined) throw new Fault('invalid', 'volume server: want --dir and --version')
  const stopped = Promise.withResolvers<void>()
  process.once('SIGINT', () => stopped.resolve())
  process.once('SIGTERM', () => stopped.resolve())
  const waking = setInterval(() => {}, WAKE_EVERY_MS).unref()
  await using folder = await openVolumeFolder({
    dir,
    create: true,
    lock: lockFile,
    calls: fileCalls(),
    clock: realClock(),
    rng: realRng(),
    log,
  })
  const server = await folder.answer({ version, stop: stopped.resolve })
  clearInterval(waking)
  log.info('volumes.serving', { dir, version, pid: process.pid })
  const looking = setInterval(() => {
    if (!existsSync(join(dir, 'store')) && server.hello().connectionCount === 0) stopped.resolve()
  }, LOOK_EVERY_MS)
  await stopped.promise
  clearInterval(looking)
  log.info('volumes.stopping', { dir, pid: process.pid })
} catch (error) {
  const { code, message } = toFault(error)
  log.error('volumes.ended', { code, message })
  process.exitCode = 1
}

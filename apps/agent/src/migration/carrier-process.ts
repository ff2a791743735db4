/**
 * Carries the memory of one domain that comes by post-copy: `node carrier-process.ts --folder FOLDER --address ADDRESS`, in the run folder of the
 * domain. It writes where it listens to `carrier.json`, and ends when all has come, or the domain has ended.
 */
import { rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Fault, toFault } from '@typevisor/base'
import { carryMemory, createNodeHost } from '@typevisor/driver-qemu'
import * as runtime from '@typevisor/runtime-node'
import { agentLinks } from './links.ts'

process.umask(0o077)
const log = runtime.consoleLog({ level: 'info' })
try {
  const { folder, address } = parseArgs({ options: { folder: { type: 'string' }, address: { type: 'string' } } }).values
  if (folder === undefined || address === undefined) throw new Fault('invalid', 'carrier: want --folder and --address')
  const clock = runtime.realClock()
  const { listener, done } = await carryMemory({
    paths: { carrier: join(folder, 'carrier.sock'), migration: join(folder, 'migration.sock') },
    sockets: createNodeHost(runtime).sockets,
    clock,
    log,
    listen: (take) => agentLinks({ address, clock }).listen(take),
  })
  const path = join(folder, 'carrier.json')
  await writeFile(`${path}.new`, JSON.stringify(listener.offer))
  await rename(`${path}.new`, path)
  // Its listener is no reason for a process to stay.
  const staying = setInterval(() => {}, 60_000)
  await done
  clearInterval(staying)
  log.info('migration.carried', { folder })
  process.exit(0)
} catch (error) {
  const { code, message } = toFault(error)
  log.error('migration.not_carried', { code, message })
  process.exit(1)
}

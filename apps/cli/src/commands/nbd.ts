/** Serves disks over NBD, with no platform: the volumes of a folder, or one in memory. */
import { Fault, formatBytes, TIB } from '@typevisor/base'
import { assertListenable, listenNbd, memoryDevice, type ExportSource, type NbdServer } from '@typevisor/nbd'
import { consoleLog, fileCalls, lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { openVolumeFolder, type VolumeFolder } from '@typevisor/storage'
import { EXIT } from '../exit-codes.ts'
import { parseFlags, sizeOf, type FlagTable } from '../flags.ts'
import type { Command, Terminal } from '../terminal.ts'
import { VERSION } from '../version.ts'
import { readKeyFile } from './key-file.ts'

const FLAGS = {
  dir: { text: 'serve the volumes of this folder; each is an export of its name, each snapshot a read-only one', value: 'DIR' },
  'key-file': { text: 'unlock the encrypted volumes that this file opens', value: 'FILE', many: true },
  memory: { text: 'serve one disk of this size in memory instead, gone with this process', value: 'SIZE' },
  socket: { text: 'listen on this Unix socket', value: 'PATH' },
  port: { text: 'listen on this TCP port (0: any free one)', value: 'PORT' },
  host: { text: 'and on this address (default 127.0.0.1)', value: 'ADDRESS' },
} as const satisfies FlagTable

/** Its table of pieces stands in memory too. */
const MEMORY_BYTES_MAX = 4 * TIB

export const nbd: Command = {
  summary: 'Serve disks over NBD: volumes of a folder, or memory',
  usage: 'typevisor nbd serve --dir DIR|--memory SIZE --socket PATH|--port PORT [--key-file FILE ...]',
  verbs: ['serve'],
  flags: FLAGS,
  async run(words, terminal, json) {
    const [verb, ...rest] = words
    if (verb !== 'serve') throw new Fault('invalid', `nbd: got ${JSON.stringify(verb ?? '')}, want serve`)
    const { dir, memory, socket, port, host, 'key-file': keyFiles = [] } = parseFlags('nbd serve', FLAGS, rest)
    if ((dir === undefined) === (memory === undefined)) throw new Fault('invalid', 'nbd serve: want either --dir or --memory')
    if ((socket === undefined) === (port === undefined)) throw new Fault('invalid', 'nbd serve: want either --socket or --port')
    if (dir === undefined && keyFiles.length > 0) throw new Fault('invalid', 'nbd serve: --key-file goes with --dir')
    if (port === undefined && host !== undefined) throw new Fault('invalid', 'nbd serve: --host goes with --port')
    const memoryBytes = memory === undefined ? 0 : sizeOf('--memory', memory, { most: MEMORY_BYTES_MAX })
    const listen = socket === undefined ? { host: host ?? '127.0.0.1', port: portOf(port ?? '') } : { socketPath: socket }
    const keys = await Promise.all(keyFiles.map(async (path) => ({ path, secret: await readKeyFile(path) })))
    // Before a folder is made for it.
    await assertListenable(listen)
    const log = consoleLog({ level: 'warn' })
    const asked = Promise.withResolvers<void>()
    await using stack = new AsyncDisposableStack()
    let source: ExportSource
    if (dir !== undefined) {
      const folder = stack.use(
        await openVolumeFolder({
          dir,
          create: true,
          lock: lockFile,
          calls: fileCalls(),
          clock: realClock(),
          rng: realRng(),
          log,
        }),
      )
      await unlockAll(folder, keys, terminal)
      await folder.answer({ version: VERSION, stop: asked.resolve })
      source = folder.served.exports()
    } else source = memorySource(memoryBytes)
    const server = stack.use(await listenNbd({ listen, source, log }))
    await announce(server, source, terminal, json)
    await Promise.race([stopSignal(), asked.promise])
    return EXIT.ok
  },
}

async function unlockAll(
  { served }: VolumeFolder,
  keys: readonly { path: string; secret: Uint8Array }[],
  terminal: Terminal,
): Promise<void> {
  for (const { path, secret } of keys) {
    const unlocked = await served.store.unlock(secret)
    if (unlocked.length === 0) terminal.say(`${path}: no locked volume has its key from this file`)
  }
  const locked = (await served.call('list', {})).filter(({ encryption }) => encryption === 'locked')
  if (locked.length > 0) terminal.say(`locked: ${locked.map(({ name }) => name).join(', ')}; typevisor volume unlock opens them`)
}

function memorySource(sizeBytes: number): ExportSource {
  const one = {
    name: '',
    description: `${formatBytes(sizeBytes)} in memory`,
    device: memoryDevice(sizeBytes),
    canMultiConn: true,
  }
  const find = async (name: string) => (name === '' ? one : null)
  return { list: async () => [{ name: '' }], open: find, look: find }
}

function portOf(text: string): number {
  const port = Number(text)
  if (!/^\d+$/.test(text) || port > 65_535) throw new Fault('invalid', `--port: got ${JSON.stringify(text)}, want 0 to 65535`)
  return port
}

async function announce(server: NbdServer, source: ExportSource, terminal: Terminal, json: boolean): Promise<void> {
  if (json) {
    terminal.out(JSON.stringify({ address: server.address, port: server.port }))
    return
  }
  const names = (await source.list()).map(({ name }) => name)
  const uri = (name: string): string =>
    server.address.replace(/^(nbd\+unix:\/\/\/)|^(nbd:\/\/[^/]+)$/, (_all, unix) =>
      unix ? `nbd+unix:///${name}` : `${server.address}/${name}`,
    )
  terminal.out(`serving ${server.address}`)
  for (const name of names.slice(0, 20)) terminal.out(`  ${uri(name)}`)
  if (names.length > 20) terminal.out(`  ... and ${names.length - 20} more`)
  terminal.say('Ctrl-C stops it')
}

const stopSignal = (): Promise<void> =>
  new Promise((resolve) => {
    process.once('SIGINT', () => resolve())
    process.once('SIGTERM', () => resolve())
  })

/** Serves disks over NBD, with no platform: the volumes of a folder, or one in memory. */
import { Fault, formatBytes, TIB, toFault } from '@typevisor/base'
import {
  assertListenable,
  listenNbd,
  memoryDevice,
  NBD_PORT,
  readPreSharedKeys,
  readServerCertificates,
  type ExportSource,
  type NbdServer,
  type NbdServerOptions,
  type NbdTlsOptions,
} from '@typevisor/nbd'
import { consoleLog, fileCalls, lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { openVolumeFolder, type VolumeFolder } from '@typevisor/storage'
import { EXIT } from '../exit-codes.ts'
import { oneOf, parseFlags, sizeOf, type FlagTable, type FlagValues } from '../flags.ts'
import type { Command, Terminal } from '../terminal.ts'
import { VERSION } from '../version.ts'
import { readKeyFile } from './key-file.ts'
import { inOrder } from './volume-order.ts'
import { nothingOpened } from './volume-keys.ts'

const FLAGS = {
  dir: { text: 'serve the volumes of this folder; each is an export of its name, each snapshot a read-only one', value: 'DIR' },
  'key-file': { text: 'unlock the encrypted volumes that this file opens', value: 'FILE', many: true },
  memory: { text: 'serve one disk of this size in memory instead, gone with this process', value: 'SIZE' },
  socket: { text: 'listen on this Unix socket', value: 'PATH' },
  port: { text: `listen on this TCP port (default ${NBD_PORT}; 0: any free one)`, value: 'PORT' },
  host: { text: 'and on this address (default 127.0.0.1)', value: 'ADDRESS' },
  tls: { text: 'with the files below: TLS is there for who asks for it, or for all (default)', value: 'on|require' },
  'tls-certificates': { text: 'server-cert.pem and server-key.pem lie in this folder', value: 'DIR' },
  'tls-verify-peer': { text: 'let in only who has a certificate that ca-cert.pem of the folder signs' },
  'tls-psk': { text: 'let in who has one of the pre-shared keys of this file, a line each: IDENTITY:HEX', value: 'FILE' },
} as const satisfies FlagTable

type Flags = FlagValues<typeof FLAGS>
/** Its table of pieces stands in memory too. */
const MEMORY_BYTES_MAX = 4 * TIB

export const nbd: Command = {
  summary: 'Serve disks over NBD: volumes of a folder, or memory',
  usage:
    'typevisor nbd serve --dir DIR|--memory SIZE [--socket PATH|--port PORT --host ADDRESS] [--key-file FILE ...] ' +
    '[--tls-certificates DIR [--tls-verify-peer]|--tls-psk FILE [--tls on|require]]',
  verbs: ['serve'],
  json: true,
  flags: FLAGS,
  async run(words, terminal, json) {
    const [verb, ...rest] = words
    if (verb !== 'serve') throw new Fault('invalid', `nbd: got ${JSON.stringify(verb ?? '')}, want serve`)
    const flags = parseFlags('nbd serve', FLAGS, rest)
    const { dir, memory, 'key-file': keyFiles = [] } = flags
    if ((dir === undefined) === (memory === undefined)) throw new Fault('invalid', 'nbd serve: want either --dir or --memory')
    if (memory !== undefined && keyFiles.length > 0)
      throw new Fault('invalid', 'nbd serve: --key-file unlocks volumes of --dir, and --memory has none')
    const listen = listenAt(flags)
    const tls = await tlsOf(flags)
    const memoryBytes = memory === undefined ? 0 : sizeOf('--memory', memory, { most: MEMORY_BYTES_MAX })
    const keys = await Promise.all(keyFiles.map(async (path) => ({ path, secret: await readKeyFile(path) })))
    // Before a folder is made for it.
    await assertListenable(listen).catch(withAdvice(flags))
    const log = consoleLog({ level: 'warn' })
    const asked = Promise.withResolvers<void>()
    await using stack = new AsyncDisposableStack()
    let source: ExportSource
    let names = async (): Promise<string[]> => ['']
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
      names = async () => inOrder(await folder.served.call('list', {})).map(({ name }) => name)
    } else source = memorySource(memoryBytes)
    const server = stack.use(await listenNbd({ listen, source, log, ...(tls ? { tls } : {}) }).catch(withAdvice(flags)))
    const served = await names()
    announce(server, served, terminal, json)
    if (served.length === 0) terminal.say(`no volume yet: typevisor volume create NAME --size 10GiB --dir ${dir} makes one`)
    await Promise.race([stopSignal(), asked.promise])
    return EXIT.ok
  },
}

function listenAt({ socket, port, host }: Flags): NbdServerOptions['listen'] {
  if (socket === undefined) return { host: host ?? '127.0.0.1', port: port === undefined ? NBD_PORT : portOf(port) }
  for (const [flag, value] of Object.entries({ port, host }))
    if (value !== undefined) throw new Fault('invalid', `nbd serve: want --socket or --${flag}, not both`)
  return { socketPath: socket }
}

/** null: without TLS. */
async function tlsOf(flags: Flags): Promise<NbdTlsOptions | null> {
  const { tls, 'tls-certificates': dir, 'tls-verify-peer': verifyPeer = false, 'tls-psk': keyFile } = flags
  const policy = tls === undefined || oneOf('--tls', tls, ['on', 'require']) === 'require' ? 'required' : 'offered'
  if (dir !== undefined && keyFile !== undefined)
    throw new Fault('invalid', 'nbd serve: want --tls-certificates or --tls-psk, not both')
  if (verifyPeer && dir === undefined)
    throw new Fault('invalid', 'nbd serve: --tls-verify-peer wants --tls-certificates, whose ca-cert.pem signs the clients')
  if (dir !== undefined) return { policy, ...(await readServerCertificates(dir, { verifyPeer })) }
  if (keyFile !== undefined) return { policy, preSharedKeys: await readPreSharedKeys(keyFile) }
  if (tls !== undefined) throw new Fault('invalid', 'nbd serve: --tls wants --tls-certificates or --tls-psk')
  return null
}

const withAdvice =
  ({ socket, port }: Flags) =>
  (error: unknown): never => {
    const fault = toFault(error)
    if (fault.code !== 'conflict' || socket !== undefined) throw error
    const advice = port === undefined ? '--port PORT listens on another one' : '--port 0 takes any free one'
    throw new Fault('conflict', `${fault.message}; ${advice}`, { cause: error })
  }

async function unlockAll(
  { served }: VolumeFolder,
  keys: readonly { path: string; secret: Uint8Array }[],
  terminal: Terminal,
): Promise<void> {
  for (const { path, secret } of keys) {
    const unlocked = await served.store.unlock(secret)
    if (unlocked.length === 0) terminal.say(nothingOpened(path))
  }
  const locked = (await served.call('list', {})).filter(({ encryption }) => encryption === 'locked')
  if (locked.length > 0)
    terminal.say(
      `locked: ${inOrder(locked)
        .map(({ name }) => name)
        .join(', ')}; typevisor volume unlock opens them`,
    )
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

function announce(server: NbdServer, names: readonly string[], terminal: Terminal, json: boolean): void {
  if (json) {
    terminal.out(JSON.stringify({ address: server.address, port: server.port }))
    return
  }
  terminal.out(`serving ${server.address}`)
  for (const name of names.slice(0, 20)) terminal.out(`  ${server.uri(name)}`)
  if (names.length > 20) terminal.out(`  ... and ${names.length - 20} more`)
  terminal.say('Ctrl-C stops it')
}

const stopSignal = (): Promise<void> =>
  new Promise((resolve) => {
    process.once('SIGINT', () => resolve())
    process.once('SIGTERM', () => resolve())
  })

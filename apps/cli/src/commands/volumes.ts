/** Volumes and snapshots of a folder, with no platform: through the process that serves the folder, or by opening it. */
import { bytes, Fault, formatBytes, MIB } from '@typevisor/base'
import { consoleLog, fileCalls, lockFile, realClock, realRng } from '@typevisor/runtime-node'
import {
  askServer,
  assertName,
  BLOCK_BYTES,
  COMPRESSION_KINDS,
  initVolumeFolder,
  openVolumeFolder,
  SIZE_BYTES_MAX,
  type CommandCaller,
  type VolumeDescription,
} from '@typevisor/storage'
import { EXIT, exitCodeOf } from '../exit-codes.ts'
import { oneOf, parseFlags, sizeOf, type FlagTable } from '../flags.ts'
import { Progress } from '../progress.ts'
import { report } from '../report.ts'
import { age, renderTable } from '../table.ts'
import type { Command, Terminal } from '../terminal.ts'
import { didYouMean } from '../suggest.ts'
import { VERSION } from '../version.ts'
import { DIFF_VERBS } from './volume-diff.ts'
import { KEY_FLAGS, KEY_VERBS, secretOf, stillLocked } from './volume-keys.ts'
import { LEASE_FLAGS, LEASE_VERBS } from './volume-lease.ts'
import { LIMIT_FLAGS, LIMIT_VERBS } from './volume-limits.ts'
import { STATISTICS_VERBS } from './volume-statistics.ts'
import { importsText, TRANSFER_FLAGS, TRANSFER_SNAPSHOT_VERBS, TRANSFER_VOLUME_VERBS } from './volume-transfer.ts'
import { inOrder } from './volume-order.ts'
import { renderUsage } from './volume-usage.ts'
import type { VolumeVerb } from './volume-verb.ts'

const FLAGS = {
  dir: { text: 'the folder of the volumes', value: 'DIR' },
  size: { text: 'size of the volume, such as 10GiB', value: 'SIZE' },
  device: { text: "create: makes the folder's store on this block device, which must be empty", value: 'DEVICE' },
  rate: { text: 'check: read not more than so much in a second, such as 100MiB (1MiB at least)', value: 'SIZE' },
  compression: {
    text: 'what the data of the volume, or of an exported snapshot, is packed with (default none)',
    value: 'none|zstd',
  },
  ...KEY_FLAGS,
  ...TRANSFER_FLAGS,
  ...LIMIT_FLAGS,
  ...LEASE_FLAGS,
} as const satisfies FlagTable

/** As fsck(8) has it: what was found, and beside it why it could not be looked for. */
const CHECK_EXIT = { sound: 0, repaired: 1, damaged: 2, failed: 8, usage: 16 } as const

/** Of a check that could not be done: not to be taken for what one finds. */
const checkExitOf = ({ code }: Fault): number => (exitCodeOf(code) === EXIT.usage ? CHECK_EXIT.usage : CHECK_EXIT.failed)

/** What is there cannot be made sense of, or not be read; not that it cannot be reached. */
function isDamage(error: unknown): error is Fault {
  if (!(error instanceof Fault) || error.code !== 'failed') return false
  const { code } = (error.cause ?? {}) as NodeJS.ErrnoException
  return code === undefined || code === 'EIO'
}

/** The store of a folder that has none yet, on a block device. */
async function makeOn(dir: string, device: string): Promise<void> {
  const parts = { clock: realClock(), rng: realRng(), log: consoleLog({ level: 'warn' }) }
  await initVolumeFolder({ dir, device, lock: lockFile, calls: fileCalls(), ...parts })
}

interface OpenFolder {
  readonly call: CommandCaller
  close(): void | Promise<void>
}

/** By its server, where it has one. */
async function openFolder(
  dir: string,
  { checks = false, transfers = false, wantsServer }: VolumeVerb,
  { makes, device }: { makes: boolean; device: string | undefined },
): Promise<OpenFolder> {
  const server = await askServer(dir)
  if (server && device === undefined) return server
  server?.close()
  if (server) throw new Fault('conflict', `--device: ${dir} has a store already`)
  if (wantsServer !== undefined) throw new Fault('unavailable', `nobody serves ${dir}: ${wantsServer}`)
  if (device !== undefined) await makeOn(dir, device)
  const parts = { clock: realClock(), rng: realRng(), log: consoleLog({ level: 'warn' }) }
  const folder = await openVolumeFolder({ dir, create: makes, checks, lock: lockFile, calls: fileCalls(), ...parts })
  try {
    // Whoever wants the folder meanwhile is answered; asked to stop, it ends as by a signal.
    if (transfers) await folder.answer({ version: VERSION, stop: () => process.kill(process.pid, 'SIGTERM') })
  } catch (error) {
    await folder.close()
    throw error
  }
  return { call: folder.served.call, close: () => folder.close() }
}

/** The folder is opened by the first call. */
async function withFolder<T>(
  dir: string,
  verb: VolumeVerb,
  options: { makes: boolean; device: string | undefined },
  work: (call: CommandCaller) => Promise<T>,
  whenDamaged: (fault: Fault) => T,
): Promise<T> {
  let folder: Promise<OpenFolder> | null = null
  let damage: Fault | null = null
  const open = (): Promise<OpenFolder> =>
    openFolder(dir, verb, options).catch((error: unknown) => {
      if (verb.checks === true && isDamage(error)) damage = error
      throw error
    })
  try {
    return await work(async (command, args, onProgress) => (await (folder ??= open())).call(command, args, onProgress))
  } catch (error) {
    if (damage !== null && error === damage) return whenDamaged(damage)
    throw error
  } finally {
    // What could not be opened has told so.
    const opened = await (folder as Promise<OpenFolder> | null)?.catch(() => null)
    await opened?.close()
  }
}

const show = (terminal: Terminal, json: boolean, volume: VolumeDescription): void =>
  terminal.out(json ? JSON.stringify(volume) : `${volume.name}: ${formatBytes(volume.sizeBytes)}`)

const volumeSizeOf = (text: string | undefined): number => {
  if (text === undefined) throw new Fault('invalid', '--size: got nothing, want a size such as 10GiB')
  return sizeOf('--size', text, { least: BLOCK_BYTES, most: SIZE_BYTES_MAX, multipleOf: BLOCK_BYTES })
}

const formOf = ({ encryption, compression }: VolumeDescription): string =>
  [encryption === 'unlocked' ? 'encrypted' : encryption, compression].filter((word) => word !== 'none').join(' ') || '-'

async function list(call: CommandCaller, terminal: Terminal, json: boolean, kind: 'volume' | 'snapshot' | null): Promise<void> {
  const items = inOrder((await call('list', {})).filter((item) => kind === null || item.kind === kind))
  const imports = kind === 'snapshot' ? [] : await call('imports', {})
  if (json) {
    const shown = imports.map(({ name, snapshotId, sizeBytes, positionBytes }) => ({
      name,
      snapshotId,
      sizeBytes,
      positionBytes,
    }))
    terminal.out(JSON.stringify(kind === 'snapshot' ? { items } : { items, imports: shown }))
    return
  }
  const now = Date.now()
  terminal.out(
    renderTable(
      items,
      [
        { title: 'NAME', value: ({ name }) => name },
        { title: 'KIND', value: (item) => item.kind },
        { title: 'SIZE', value: ({ sizeBytes }) => formatBytes(sizeBytes), right: true },
        {
          title: 'STORED',
          value: ({ storedBytes, storedIsExact }) => `${storedIsExact ? '' : '~'}${formatBytes(bytes(storedBytes))}`,
          right: true,
        },
        { title: 'FORM', value: formOf },
        { title: 'FROM', value: ({ parent }) => parent ?? '-' },
        { title: 'AGE', value: ({ createdAt }) => age(createdAt, now), right: true },
      ],
      terminal.width,
    ),
  )
  if (imports.length > 0) terminal.say(importsText(imports))
}

const VOLUME_VERBS: Readonly<Record<string, VolumeVerb>> = {
  create: {
    usage: 'typevisor volume create NAME --size SIZE [--key-file FILE] [--compression zstd] [--device DEVICE] --dir DIR',
    words: [1, 1],
    flags: ['size', 'compression', 'key-file', 'device'],
    makes: true,
    run: async (call, [name = ''], flags, terminal, json) => {
      const compression = oneOf('--compression', flags.compression ?? 'none', COMPRESSION_KINDS)
      const sizeBytes = volumeSizeOf(flags.size)
      assertName(name, 'volume')
      const secret = flags['key-file'] === undefined ? {} : { secret: await secretOf(flags, 'key-file') }
      show(terminal, json, await call('create', { name, sizeBytes, compression, ...secret }))
    },
  },
  clone: {
    usage: 'typevisor volume clone VOLUME@SNAPSHOT NAME --dir DIR',
    words: [2, 2],
    run: async (call, [snapshot = '', name = ''], _flags, terminal, json) =>
      show(terminal, json, await call('clone', { snapshot, name })),
  },
  list: {
    usage: 'typevisor volume list --dir DIR',
    words: [0, 0],
    run: (call, _words, _flags, terminal, json) => list(call, terminal, json, null),
  },
  resize: {
    usage: 'typevisor volume resize NAME --size SIZE --dir DIR',
    words: [1, 1],
    flags: ['size'],
    run: async (call, [name = ''], flags, terminal, json) =>
      show(terminal, json, await call('resize', { name, sizeBytes: volumeSizeOf(flags.size) })),
  },
  rename: {
    usage: 'typevisor volume rename NAME NEW --dir DIR',
    words: [2, 2],
    run: async (call, [name = '', next = ''], _flags, terminal, json) =>
      show(terminal, json, await call('rename', { name, next })),
  },
  delete: {
    usage: 'typevisor volume delete NAME --dir DIR',
    words: [1, 1],
    run: async (call, [name = ''], _flags, terminal, json) => {
      if (name.includes('@'))
        throw new Fault('invalid', `volume delete ${name}: it is a snapshot: typevisor snapshot delete ${name}`)
      await call('remove', { name })
      terminal.out(json ? JSON.stringify({ removed: name }) : `${name} is deleted; its snapshots stay`)
    },
  },
  check: {
    usage: 'typevisor volume check [--rate SIZE] [--key-file FILE] --dir DIR',
    words: [0, 0],
    flags: ['rate', 'key-file'],
    checks: true,
    run: async (call, _words, flags, terminal, json) => {
      const args =
        flags.rate === undefined
          ? {}
          : { bytesPerSecondMax: sizeOf('--rate', flags.rate, { least: MIB, most: Number.MAX_SAFE_INTEGER }) }
      const locked = await stillLocked(call, flags, terminal)
      using progress = new Progress('check')
      const found = await call('check', args, (fraction) => progress.show('reading', fraction))
      progress.clear()
      if (json) terminal.out(JSON.stringify({ ...found, locked }))
      else {
        for (const line of found.damage) terminal.out(line)
        if (locked.length > 0) terminal.say(`locked, so that only checksums are proven: ${locked.join(', ')}`)
        const looked = `${found.dataCount} blocks of data, ${found.nodeCount} nodes`
        const tables = `${found.rebuiltCount} tables made anew, ${found.leakedCount} blocks given back, ${found.missingCount} taken`
        const counted = found.recountedCount > 0 ? `, ${found.recountedCount} volumes counted anew` : ''
        const mended = `${found.mendedCount} blocks written again from their second copy, ${tables}${counted}`
        terminal.out(
          found.damage.length > 0 ? `damaged: ${looked}` : found.isRepaired ? `mended: ${mended}; ${looked}` : `sound: ${looked}`,
        )
      }
      return found.damage.length > 0 ? CHECK_EXIT.damaged : found.isRepaired ? CHECK_EXIT.repaired : CHECK_EXIT.sound
    },
  },
  usage: {
    usage: 'typevisor volume usage --dir DIR',
    words: [0, 0],
    run: async (call, _words, _flags, terminal, json) => {
      const found = await call('usage', {})
      const usage = { ...found, volumes: inOrder(found.volumes) }
      terminal.out(json ? JSON.stringify(usage) : renderUsage(usage, terminal.width))
    },
  },
  ...KEY_VERBS,
  ...LIMIT_VERBS,
  ...STATISTICS_VERBS,
  ...LEASE_VERBS,
  ...TRANSFER_VOLUME_VERBS,
}

const SNAPSHOT_VERBS: Readonly<Record<string, VolumeVerb>> = {
  create: {
    usage: 'typevisor snapshot create VOLUME [NAME] --dir DIR',
    words: [1, 2],
    run: async (call, [volume = '', name = new Date().toISOString().replaceAll(/[^0-9TZ]/g, '')], _flags, terminal, json) =>
      show(terminal, json, await call('snapshot', { volume, name })),
  },
  list: {
    usage: 'typevisor snapshot list --dir DIR',
    words: [0, 0],
    run: (call, _words, _flags, terminal, json) => list(call, terminal, json, 'snapshot'),
  },
  delete: {
    usage: 'typevisor snapshot delete VOLUME@NAME --dir DIR',
    words: [1, 1],
    run: async (call, [name = ''], _flags, terminal, json) => {
      if (!name.includes('@')) throw new Fault('invalid', `snapshot delete: got ${JSON.stringify(name)}, want VOLUME@NAME`)
      await call('remove', { name })
      terminal.out(json ? JSON.stringify({ removed: name }) : `${name} is deleted`)
    },
  },
  revert: {
    usage: 'typevisor snapshot revert VOLUME VOLUME@NAME --dir DIR',
    words: [2, 2],
    run: async (call, [volume = '', snapshot = ''], _flags, terminal, json) =>
      show(terminal, json, await call('revert', { volume, snapshot })),
  },
  ...DIFF_VERBS,
  ...TRANSFER_SNAPSHOT_VERBS,
}

type Flags = typeof FLAGS

/** `--dir` and some more. */
const tableOf = (names: readonly string[]): Flags =>
  Object.fromEntries(Object.entries(FLAGS).filter(([name]) => name === 'dir' || names.includes(name))) as Flags // some of them may not be there, as in what is parsed

const usageLine = ({ usage }: VolumeVerb): string => usage.replaceAll('\n', '; or ')

/** Of what was given, the flags that have a value. */
const textsOf = (given: Readonly<Record<string, string | boolean | undefined>>): Record<string, string> =>
  Object.fromEntries(Object.entries(given).flatMap(([name, value]) => (typeof value === 'string' ? [[name, value]] : [])))

function commandOf(noun: string, summary: string, verbs: Readonly<Record<string, VolumeVerb>>): Command {
  return {
    summary,
    verbs: Object.keys(verbs),
    usage: Object.values(verbs)
      .map(({ usage }) => usage)
      .join('\n'),
    flags: tableOf(Object.values(verbs).flatMap((verb) => verb.flags ?? [])),
    helpOf: Object.fromEntries(
      Object.entries(verbs).map(([name, { usage, flags = [] }]) => [name, { usage, flags: tableOf(flags) }]),
    ),
    json: true,
    async run(words, terminal, json) {
      try {
        return await runVerb(words, terminal, json)
      } catch (error) {
        const name = words[0] ?? ''
        if (!Object.hasOwn(verbs, name) || verbs[name]?.checks !== true) throw error
        return checkExitOf(report(error, terminal, json))
      }
    },
  }
  async function runVerb(words: readonly string[], terminal: Terminal, json: boolean): Promise<number> {
    const [verbName = '', ...rest] = words
    const verb = Object.hasOwn(verbs, verbName) ? verbs[verbName] : undefined
    if (!verb)
      throw new Fault(
        'invalid',
        `${noun}: got ${JSON.stringify(verbName)}, want ${Object.keys(verbs).join(', ')}${didYouMean(verbName, Object.keys(verbs))}`,
      )
    const flagAt = rest.findIndex((word) => word.startsWith('-'))
    const positional = flagAt === -1 ? rest : rest.slice(0, flagAt)
    const { dir, ...given } = parseFlags(
      `${noun} ${verbName}`,
      tableOf(verb.flags ?? []),
      flagAt === -1 ? [] : rest.slice(flagAt),
    )
    const [least, most] = verb.words
    if (positional.length < least || positional.length > most)
      throw new Fault('invalid', `${noun} ${verbName}: got ${positional.length} words, want: ${usageLine(verb)}`)
    if (dir === undefined) throw new Fault('invalid', `${noun} ${verbName}: got no --dir, want: ${usageLine(verb)}`)
    const flags = textsOf(given)
    const switches = new Set(Object.keys(given).filter((name) => !Object.hasOwn(flags, name)))
    const more = { dir, switches }
    const isMade = verb.makes === true || (verb.makes !== undefined && !verb.makes.unless.some((name) => switches.has(name)))
    const code = await withFolder(
      dir,
      verb,
      { makes: isMade, device: flags['device'] },
      (call) => verb.run(call, positional, flags, terminal, json, more),
      ({ message }) => {
        terminal.out(json ? JSON.stringify({ damage: [message] }) : `damaged: ${message}`)
        return CHECK_EXIT.damaged
      },
    )
    return code ?? EXIT.ok
  }
}

export const volume = commandOf(
  'volume',
  'Volumes of a folder: create, clone, list, usage, resize, rename, delete, check, import, export, unlock, rekey, limit, stats, lease',
  VOLUME_VERBS,
)
export const snapshot = commandOf('snapshot', 'Snapshots of volumes: create, list, delete, revert, diff, export', SNAPSHOT_VERBS)

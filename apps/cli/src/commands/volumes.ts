/** Volumes and snapshots of a folder, with no platform: through the process that serves the folder, or by opening it. */
import { Fault, formatBytes, parseBytes } from '@typevisor/base'
import { consoleLog, fileCalls, lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { askServer, openVolumeFolder, type CommandCaller, type VolumeDescription } from '@typevisor/storage'
import { EXIT } from '../exit-codes.ts'
import { parseFlags, type FlagTable } from '../flags.ts'
import { age, renderTable } from '../table.ts'
import type { Command, Terminal } from '../terminal.ts'
import { didYouMean } from '../suggest.ts'
import { LIMIT_FLAGS, LIMIT_VERBS } from './volume-limits.ts'
import { STATISTICS_VERBS } from './volume-statistics.ts'
import { renderUsage } from './volume-usage.ts'
import type { VolumeVerb } from './volume-verb.ts'

const FLAGS = {
  dir: { text: 'the folder of the volumes', value: 'DIR' },
  size: { text: 'size of the volume, such as 10GiB', value: 'SIZE' },
  ...LIMIT_FLAGS,
} as const satisfies FlagTable

/** As those who check file systems have it. */
const CHECK_EXIT = { sound: 0, repaired: 1, damaged: 2 } as const

/** Opens `dir`, by its server where it has one. */
async function withFolder<T>(
  dir: string,
  { makes = false, checks = false, wantsServer }: VolumeVerb,
  work: (call: CommandCaller) => Promise<T>,
): Promise<T> {
  const server = await askServer(dir)
  if (server) {
    try {
      return await work(server.call)
    } finally {
      server.close()
    }
  }
  if (wantsServer !== undefined) throw new Fault('unavailable', `nobody serves ${dir}: ${wantsServer}`)
  const parts = { clock: realClock(), rng: realRng(), log: consoleLog({ level: 'warn' }) }
  await using folder = await openVolumeFolder({ dir, create: makes, checks, lock: lockFile, calls: fileCalls(), ...parts })
  return await work(folder.served.call)
}

const show = (terminal: Terminal, json: boolean, volume: VolumeDescription): void =>
  terminal.out(json ? JSON.stringify(volume) : `${volume.name}: ${formatBytes(volume.sizeBytes)}`)

const sizeOf = (size: string | undefined): number => {
  if (size === undefined) throw new Fault('invalid', '--size: got nothing, want a size such as 10GiB')
  return parseBytes(size)
}

async function list(call: CommandCaller, terminal: Terminal, json: boolean, kind: 'volume' | 'snapshot' | null): Promise<void> {
  const items = (await call('list', {})).filter((item) => kind === null || item.kind === kind)
  if (json) {
    terminal.out(JSON.stringify({ items }))
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
        { title: 'FROM', value: ({ parent }) => parent ?? '-' },
        { title: 'AGE', value: ({ createdAt }) => age(createdAt, now), right: true },
      ],
      terminal.width,
    ),
  )
}

const VOLUME_VERBS: Readonly<Record<string, VolumeVerb>> = {
  create: {
    usage: 'typevisor volume create NAME --size SIZE --dir DIR',
    words: [1, 1],
    flags: ['size'],
    makes: true,
    run: async (call, [name = ''], flags, terminal, json) =>
      show(terminal, json, await call('create', { name, sizeBytes: sizeOf(flags.size) })),
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
      show(terminal, json, await call('resize', { name, sizeBytes: sizeOf(flags.size) })),
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
      await call('remove', { name })
      terminal.out(json ? JSON.stringify({ removed: name }) : `${name} is deleted; its snapshots stay`)
    },
  },
  check: {
    usage: 'typevisor volume check --dir DIR',
    words: [0, 0],
    checks: true,
    run: async (call, _words, _flags, terminal, json) => {
      const found = await call('check', {})
      if (json) terminal.out(JSON.stringify(found))
      else {
        for (const line of found.damage) terminal.out(line)
        const looked = `${found.dataCount} blocks of data, ${found.nodeCount} nodes`
        const mended = `${found.leakedCount} blocks given back, ${found.missingCount} taken`
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
      const usage = await call('usage', {})
      terminal.out(json ? JSON.stringify(usage) : renderUsage(usage, terminal.width))
    },
  },
  ...LIMIT_VERBS,
  ...STATISTICS_VERBS,
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
}

type Flags = typeof FLAGS

/** `--dir` and some more. */
const tableOf = (names: readonly string[]): Flags =>
  Object.fromEntries(Object.entries(FLAGS).filter(([name]) => name === 'dir' || names.includes(name))) as Flags // some of them may not be there, as in what is parsed

function commandOf(noun: string, summary: string, verbs: Readonly<Record<string, VolumeVerb>>): Command {
  return {
    summary,
    usage: Object.values(verbs)
      .map(({ usage }) => usage)
      .join('\n'),
    flags: tableOf(Object.values(verbs).flatMap((verb) => verb.flags ?? [])),
    async run(words, terminal, json) {
      const [verbName = '', ...rest] = words
      const verb = Object.hasOwn(verbs, verbName) ? verbs[verbName] : undefined
      if (!verb)
        throw new Fault(
          'invalid',
          `${noun}: got ${JSON.stringify(verbName)}, want ${Object.keys(verbs).join(', ')}${didYouMean(verbName, Object.keys(verbs))}`,
        )
      const flagAt = rest.findIndex((word) => word.startsWith('-'))
      const positional = flagAt === -1 ? rest : rest.slice(0, flagAt)
      const { dir, ...flags } = parseFlags(
        `${noun} ${verbName}`,
        tableOf(verb.flags ?? []),
        flagAt === -1 ? [] : rest.slice(flagAt),
      )
      const [least, most] = verb.words
      if (positional.length < least || positional.length > most)
        throw new Fault('invalid', `${noun} ${verbName}: got ${positional.length} words, want: ${verb.usage}`)
      if (dir === undefined) throw new Fault('invalid', `${noun} ${verbName}: got no --dir, want: ${verb.usage}`)
      const code = await withFolder(dir, verb, (call) => verb.run(call, positional, flags, terminal, json))
      return code ?? EXIT.ok
    },
  }
}

export const volume = commandOf(
  'volume',
  'Volumes of a folder: create, clone, list, resize, rename, delete, check, limit, stats',
  VOLUME_VERBS,
)
export const snapshot = commandOf('snapshot', 'Snapshots of volumes: create, list, delete, revert', SNAPSHOT_VERBS)

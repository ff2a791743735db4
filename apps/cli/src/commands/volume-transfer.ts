/** Snapshots and images out of a folder and into it. */
import { createReadStream, createWriteStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { Fault, formatBytes, bytes } from '@typevisor/base'
import {
  assertName,
  COMPRESSION_KINDS,
  exportImage,
  exportSnapshot,
  IMAGE_FORMATS,
  imageEnds,
  importImage,
  importStream,
  isStream,
  nodeCommandRunner,
  parseImageFormat,
  writeNewFile,
  type CommandCaller,
  type ImportStatus,
  type ServedFolder,
  type VolumeForm,
} from '@typevisor/storage'
import { fileFault } from '../file-fault.ts'
import { oneOf, type FlagTable } from '../flags.ts'
import { Progress } from '../progress.ts'
import type { Terminal } from '../terminal.ts'
import { secretOf } from './volume-keys.ts'
import type { VolumeVerb } from './volume-verb.ts'

export const TRANSFER_FLAGS = {
  from: { text: 'export: only what differs from this snapshot', value: 'VOLUME@SNAPSHOT' },
  output: { text: 'export: into this file, which must not be there (default: standard output)', value: 'FILE' },
  input: { text: 'import: from this file (default: standard input)', value: 'FILE' },
  'resume-at': { text: 'export: go on from here, as `volume import NAME --status` says', value: 'BYTES' },
  format: {
    text: `import, export: of an image (${IMAGE_FORMATS.join(', ')} or vhd; of an import as the file looks)`,
    value: 'FORMAT',
  },
  'with-backing': { text: 'import: an image may go on from other files, which are read too' },
  status: { text: 'import: how far one that was interrupted has come' },
  abort: { text: 'import: give up one that was interrupted' },
} as const satisfies FlagTable

const FORMATS = [...IMAGE_FORMATS, 'vhd'].join('|')

export const TRANSFER_VOLUME_VERBS: Readonly<Record<string, VolumeVerb>> = {
  import: {
    usage: [
      `typevisor volume import NAME FILE [--format ${FORMATS}] [--with-backing] [--key-file FILE] [--compression zstd] --dir DIR    (an image)`,
      'typevisor volume import NAME [--input FILE] [--key-file FILE] [--compression zstd] --dir DIR    (an exported snapshot)',
      'typevisor volume import NAME --status|--abort --dir DIR',
    ].join('\n'),
    words: [1, 2],
    flags: ['input', 'format', 'with-backing', 'status', 'abort', 'key-file', 'compression'],
    makes: { unless: ['status', 'abort'] },
    transfers: true,
    async run(call, [name = '', file], flags, terminal, json, { dir, switches }) {
      const { input, format } = flags
      const isQuestion = switches.has('status') || switches.has('abort')
      if (isQuestion && (switches.size > 1 || (file ?? Object.values(flags)[0]) !== undefined))
        throw new Fault('invalid', 'volume import: --status and --abort stand alone')
      if (input !== undefined && (format !== undefined || switches.has('with-backing')))
        throw new Fault('invalid', 'volume import: --format and --with-backing are of an image (FILE), got --input')
      assertName(name, 'volume')
      const form = isQuestion ? {} : await formOf(flags)
      if (switches.has('status')) showStatus(await statusOf(call, name), terminal, json)
      else if (switches.has('abort')) {
        await call('importAbort', { name })
        terminal.out(json ? JSON.stringify({ aborted: name }) : `the import of ${name} is given up`)
      } else if (file !== undefined && input !== undefined)
        throw new Fault('invalid', 'volume import: got FILE and --input, want one of both')
      else if (file !== undefined && (format !== undefined || !isStream((await imageEnds(file)).first))) {
        using progress = new Progress(`import ${name}`)
        using stop = interruption()
        const made = await importImage({ dir, call }, name, file, {
          runner: nodeCommandRunner(),
          signal: stop.signal,
          ...(format === undefined ? {} : { format: parseImageFormat(format) }),
          withBacking: switches.has('with-backing'),
          form,
          onProgress: (fraction) => progress.show(file, fraction),
        })
        progress.clear()
        terminal.out(json ? JSON.stringify(made) : `${made.name}: ${formatBytes(bytes(made.sizeBytes))}`)
      } else await importFrom({ dir, call }, name, input ?? file, form, terminal, json)
    },
  },
  export: {
    usage: `typevisor volume export NAME|VOLUME@SNAPSHOT FILE --format ${FORMATS} [--key-file FILE] --dir DIR    (an image)`,
    words: [2, 2],
    flags: ['format', 'key-file'],
    transfers: true,
    async run(call, [name = '', file = ''], flags, terminal, json, { dir }) {
      const { format } = flags
      if (format === undefined) throw new Fault('invalid', `volume export: got no --format, want ${FORMATS}`)
      const parsed = parseImageFormat(format)
      await unlockWith(call, name, flags)
      using progress = new Progress(`export ${name}`)
      using stop = interruption()
      await exportImage({ dir, call }, name, file, {
        runner: nodeCommandRunner(),
        signal: stop.signal,
        format: parsed,
        onProgress: (fraction) => progress.show(file, fraction),
      })
      progress.clear()
      terminal.out(json ? JSON.stringify({ name, file, format: parsed }) : `${name} is in ${file}`)
    },
  },
}

async function importFrom(
  folder: ServedFolder,
  name: string,
  file: string | undefined,
  form: VolumeForm,
  terminal: Terminal,
  json: boolean,
): Promise<void> {
  if (file === undefined && process.stdin.isTTY)
    throw new Fault('invalid', 'volume import: got a terminal, want FILE, --input FILE or a pipe')
  using progress = new Progress(`import ${name}`)
  const source = file === undefined ? process.stdin : createReadStream(file, { highWaterMark: 1024 * 1024 })
  // What has come whole is kept, and told of below.
  using stop = interruption()
  stop.signal.addEventListener('abort', () => source.destroy(stop.signal.reason as Fault), { once: true })
  // What is no stream has not been asked about in the folder, which may not be there.
  let isBegun = false
  const call: CommandCaller = (...asked) => {
    isBegun = true
    return folder.call(...asked)
  }
  try {
    const made = await importStream({ ...folder, call }, name, looksExported(source, name, file), form, (at, sizeBytes) =>
      progress.show(formatBytes(bytes(at)), at / sizeBytes),
    )
    progress.clear()
    terminal.out(json ? JSON.stringify(made) : `${name} is as ${made.name}`)
  } catch (error) {
    progress.clear()
    const status = isBegun ? await statusOf(folder.call, name).catch(() => null) : null
    if (status) terminal.say(resumeText(status))
    if (stop.signal.aborted) throw stop.signal.reason
    throw fileFault(`import of ${name}`, error)
  }
}

/** What came in, where it begins as a stream does, or is too short to tell. @throws Fault `invalid`. */
async function* looksExported(
  chunks: AsyncIterable<Uint8Array>,
  name: string,
  file: string | undefined,
): AsyncGenerator<Uint8Array, void, void> {
  let isFirst = true
  for await (const chunk of chunks) {
    if (isFirst && chunk.length >= STREAM_MAGIC_BYTES && !isStream(chunk))
      throw new Fault(
        'invalid',
        `import of ${name}: ${file ?? 'what came in'} is no exported snapshot; for an image: volume import ${name} ${file ?? 'FILE'}`,
      )
    isFirst = false
    yield chunk
  }
  if (isFirst) throw new Fault('invalid', `import of ${name}: nothing came in, want an exported snapshot`)
}

const STREAM_MAGIC_BYTES = 8

/** What a volume is made as, or unlocked with. */
async function formOf(flags: Readonly<Record<string, string | undefined>>): Promise<VolumeForm> {
  const { compression, 'key-file': keyFile } = flags
  return {
    ...(compression === undefined ? {} : { compression: oneOf('--compression', compression, COMPRESSION_KINDS) }),
    ...(keyFile === undefined ? {} : { secret: await secretOf(flags, 'key-file') }),
  }
}

/** What is locked, where a key file is given. */
async function unlockWith(call: CommandCaller, name: string, flags: Readonly<Record<string, string | undefined>>): Promise<void> {
  if (flags['key-file'] === undefined) return
  const secret = await secretOf(flags, 'key-file')
  if ((await call('get', { name }))?.encryption === 'locked') await call('unlock', { name, secret })
}

/** Ctrl-C and SIGTERM, so that nothing half is left. */
function interruption(): { readonly signal: AbortSignal } & Disposable {
  const controller = new AbortController()
  const stop = (): void => controller.abort(new Fault('aborted', 'interrupted'))
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, stop)
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, stop)
    },
  }
}

export const TRANSFER_SNAPSHOT_VERBS: Readonly<Record<string, VolumeVerb>> = {
  export: {
    usage:
      'typevisor snapshot export VOLUME@SNAPSHOT [--from VOLUME@SNAPSHOT] [--resume-at BYTES] [--compression zstd] [--key-file FILE] [--output FILE] --dir DIR',
    words: [1, 1],
    flags: ['from', 'output', 'resume-at', 'compression', 'key-file'],
    transfers: true,
    async run(call, [snapshot = ''], flags, terminal, json, { dir }) {
      const { from, output, 'resume-at': resumeAt } = flags
      if (output === undefined && process.stdout.isTTY)
        throw new Fault('invalid', 'snapshot export: got a terminal, want --output FILE or a pipe')
      const startBytes = resumeAt === undefined ? 0 : positionOf(resumeAt)
      const { compression = 'none' } = flags
      const packing = oneOf('--compression', compression, COMPRESSION_KINDS)
      await unlockWith(call, snapshot, flags)
      using progress = new Progress(`export ${snapshot}`)
      const chunks = exportSnapshot(
        { dir, call },
        { snapshot, from: from ?? null, startBytes, compression: packing },
        (at, size) => progress.show(formatBytes(bytes(at)), at / size),
      )
      let sentBytes = 0
      const counted = async function* (): AsyncGenerator<Uint8Array> {
        for await (const chunk of chunks) {
          sentBytes += chunk.length
          yield chunk
        }
      }
      if (output === undefined) {
        await pipeline(counted, process.stdout, { end: false }).catch((error: unknown) => {
          throw fileFault(`export of ${snapshot}`, error)
        })
        return
      }
      using stop = interruption()
      await writeNewFile('--output', output, (part) =>
        pipeline(counted, createWriteStream(part, { flags: 'wx' }), { signal: stop.signal }).catch((error: unknown) => {
          throw stop.signal.aborted ? stop.signal.reason : fileFault(`--output ${output}`, error)
        }),
      )
      progress.clear()
      terminal.out(
        json
          ? JSON.stringify({ snapshot, from: from ?? null, file: output, sizeBytes: sentBytes })
          : `${snapshot}: ${formatBytes(bytes(sentBytes))} in ${output}`,
      )
    },
  },
}

function positionOf(text: string): number {
  if (!/^\d{1,16}$/.test(text) || Number(text) % 4096 !== 0)
    throw new Fault('invalid', `--resume-at: got ${JSON.stringify(text)}, want bytes, a multiple of 4096`)
  return Number(text)
}

const statusOf = async (call: CommandCaller, name: string): Promise<ImportStatus> => {
  const found = (await call('imports', {})).find((one) => one.name === name)
  if (!found) throw new Fault('not_found', `import of ${name}: there is none under way`)
  return found
}

/** For lists: what is not a volume yet. */
export const importsText = (imports: readonly ImportStatus[]): string =>
  imports
    .map(
      ({ name, positionBytes, sizeBytes }) =>
        `an import of ${name} is not whole, ${formatBytes(bytes(positionBytes))} of ${formatBytes(bytes(sizeBytes))}: \`volume import ${name} --status\``,
    )
    .join('\n')

const resumeText = ({ name, positionBytes, sizeBytes }: ImportStatus): string =>
  `the import of ${name} has come to ${positionBytes} of ${sizeBytes}: go on with \`snapshot export ... --resume-at ${positionBytes}\`, or give it up with --abort`

function showStatus(status: ImportStatus, terminal: Terminal, json: boolean): void {
  const { name, snapshotId, sizeBytes, positionBytes } = status
  terminal.out(json ? JSON.stringify({ name, snapshotId, sizeBytes, positionBytes }) : resumeText(status))
}

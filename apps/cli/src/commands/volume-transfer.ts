/** Snapshots and images out of a folder and into it. */
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { Fault, formatBytes, bytes } from '@typevisor/base'
import { exportSnapshot, importStream, type CommandCaller, type ImportStatus } from '@typevisor/storage'
import type { FlagTable } from '../flags.ts'
import { Progress } from '../progress.ts'
import type { Terminal } from '../terminal.ts'
import type { VolumeVerb } from './volume-verb.ts'

export const TRANSFER_FLAGS = {
  from: { text: 'export: only what differs from this snapshot', value: 'VOLUME@SNAPSHOT' },
  output: { text: 'export: into this file, which must not be there (default: standard output)', value: 'FILE' },
  input: { text: 'import: from this file (default: standard input)', value: 'FILE' },
  'resume-at': { text: 'export: go on from here, as `volume import NAME --status` says', value: 'BYTES' },
  status: { text: 'import: how far one that was interrupted has come' },
  abort: { text: 'import: give up one that was interrupted' },
} as const satisfies FlagTable

export const TRANSFER_VOLUME_VERBS: Readonly<Record<string, VolumeVerb>> = {
  import: {
    usage: [
      'typevisor volume import NAME [--input FILE] --dir DIR    (an exported snapshot)',
      'typevisor volume import NAME --status|--abort --dir DIR',
    ].join('\n'),
    words: [1, 1],
    makes: true,
    transfers: true,
    async run(call, [name = ''], { input }, terminal, json, { dir, switches }) {
      if (switches.has('status')) {
        showStatus(name, await statusOf(call, name), terminal, json)
        return
      }
      if (switches.has('abort')) {
        await call('importAbort', { name })
        terminal.out(json ? JSON.stringify({ aborted: name }) : `the import of ${name} is given up`)
        return
      }
      if (input === undefined && process.stdin.isTTY)
        throw new Fault('invalid', 'volume import: got a terminal, want --input FILE or a pipe')
      using progress = new Progress(`import ${name}`)
      const chunks = input === undefined ? process.stdin : createReadStream(input, { highWaterMark: 1024 * 1024 })
      try {
        const made = await importStream({ dir, call }, name, chunks, (at, size) =>
          progress.show(formatBytes(bytes(at)), size === 0 ? null : at / size),
        )
        progress.clear()
        terminal.out(json ? JSON.stringify(made) : `${name} is as ${made.name}`)
      } catch (error) {
        progress.clear()
        const status = await statusOf(call, name).catch(() => null)
        if (status) terminal.say(resumeText(status))
        throw fileFault(error)
      }
    },
  },
}

export const TRANSFER_SNAPSHOT_VERBS: Readonly<Record<string, VolumeVerb>> = {
  export: {
    usage: 'typevisor snapshot export VOLUME@SNAPSHOT [--from VOLUME@SNAPSHOT] [--resume-at BYTES] [--output FILE] --dir DIR',
    words: [1, 1],
    transfers: true,
    async run(call, [snapshot = ''], { from, output, 'resume-at': resumeAt }, terminal, json, { dir }) {
      if (output === undefined && process.stdout.isTTY)
        throw new Fault('invalid', 'snapshot export: got a terminal, want --output FILE or a pipe')
      const startBytes = resumeAt === undefined ? 0 : positionOf(resumeAt)
      using progress = new Progress(`export ${snapshot}`)
      const chunks = exportSnapshot({ dir, call }, { snapshot, from: from ?? null, startBytes }, (at, size) =>
        progress.show(formatBytes(bytes(at)), at / size),
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
          throw fileFault(error)
        })
        return
      }
      const file = await open(output, 'wx').catch((error: unknown) => {
        throw fileFault(error)
      })
      try {
        for await (const chunk of counted()) await file.writeFile(chunk)
        await file.sync()
      } finally {
        await file.close()
      }
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

const resumeText = ({ name, positionBytes, sizeBytes }: ImportStatus): string =>
  `the import of ${name} has come to ${positionBytes} of ${sizeBytes}: go on with \`snapshot export ... --resume-at ${positionBytes}\`, or give it up with --abort`

function showStatus(name: string, status: ImportStatus, terminal: Terminal, json: boolean): void {
  const { snapshotId, sizeBytes, positionBytes } = status
  terminal.out(json ? JSON.stringify({ name, snapshotId, sizeBytes, positionBytes }) : resumeText(status))
}

function fileFault(error: unknown): unknown {
  const { code, message, syscall } = error as NodeJS.ErrnoException
  if (syscall === undefined || code === undefined) return error
  return new Fault(code === 'ENOENT' ? 'not_found' : code === 'EEXIST' ? 'conflict' : 'failed', message, { cause: error })
}

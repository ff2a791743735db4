/**
 * `node packages/image/src/build.ts [--folder F] [--cache C] [--lines] [NAME]`: builds an image without a running platform; its record goes
 * to stdout, progress to stderr. With `--lines` both go to stdout as `BuildLine`s.
 */
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { epochMillis, toFault } from '@typevisor/base'
import { parseImageName } from '@typevisor/model'
import type { BuildLine } from './node-build-process.ts'
import { createImageStore } from './node-image-store.ts'

const tell = (line: BuildLine): void => void process.stdout.write(`${JSON.stringify(line)}\n`)
const asLines = process.argv.includes('--lines')
const defaultCache = process.getuid?.() === 0 ? '/var/cache/typevisor' : join(homedir(), '.cache', 'typevisor')
try {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      folder: { type: 'string', default: join(defaultCache, 'images') },
      cache: { type: 'string', default: defaultCache },
      lines: { type: 'boolean', default: false },
    },
  })
  const store = createImageStore({
    folder: resolve(values.folder),
    cacheFolder: resolve(values.cache),
    clock: { now: () => epochMillis(Date.now()) },
  })
  const stop = new AbortController()
  process.once('SIGINT', () => stop.abort())
  const image = await store.build(parseImageName(positionals[0] ?? 'micro'), {
    signal: stop.signal,
    progress: (fraction, message) => {
      if (asLines) tell({ kind: 'progress', fraction, message })
      else process.stderr.write(`${String(Math.round(fraction * 100)).padStart(3)} %  ${message}\n`)
    },
  })
  if (asLines) tell({ kind: 'image', image })
  else process.stdout.write(`${JSON.stringify(image, null, 2)}\n`)
} catch (error) {
  const fault = toFault(error)
  if (asLines) tell({ kind: 'fault', fault: fault.toJSON() })
  else process.stderr.write(`typevisor image build: ${fault.message} (${fault.code})\n`)
  process.exitCode = 1
}

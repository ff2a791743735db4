/** `node packages/image/src/build.ts [--folder F] [--cache C] [NAME]`: builds an image without a running platform; its record goes to stdout. */
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { epochMillis, toFault } from '@typevisor/base'
import { parseImageName } from '@typevisor/model'
import { createImageStore } from './node-image-store.ts'

const defaultCache = process.getuid?.() === 0 ? '/var/cache/typevisor' : join(homedir(), '.cache', 'typevisor')
try {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      folder: { type: 'string', default: join(defaultCache, 'images') },
      cache: { type: 'string', default: defaultCache },
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
    progress: (fraction, message) => process.stderr.write(`${String(Math.round(fraction * 100)).padStart(3)} %  ${message}\n`),
  })
  process.stdout.write(`${JSON.stringify(image, null, 2)}\n`)
} catch (error) {
  const fault = toFault(error)
  process.stderr.write(`typevisor image build: ${fault.message} (${fault.code})\n`)
  process.exitCode = 1
}

/**
 * `typevisor NOUN VERB`: every operation of the API and the few commands that are not of it. Quick to start: what a command does not need
 * is not loaded, and what is loaded is compiled once and cached.
 */
import { enableCompileCache } from 'node:module'

/** Most of what `nbd serve` holds lies outside the heap, and goes only when that is collected: too seldom without a bound. */
const SERVING_HEAP_MIB = 256

const [noun, verb] = process.argv.slice(2)
const hasBound = process.execArgv.some((word) => word.startsWith('--max-old-space-size'))
if (noun === 'nbd' && verb === 'serve' && !hasBound && process.execve) {
  const bound = `--max-old-space-size=${SERVING_HEAP_MIB}`
  process.execve(process.execPath, [process.execPath, bound, ...process.execArgv, ...process.argv.slice(1)], process.env)
}
enableCompileCache()
const { run } = await import('./cli.ts')
process.exitCode = await run(process.argv.slice(2))

/**
 * `typevisor NOUN VERB`: every operation of the API and the few commands that are not of it. Quick to start: what a command does not need
 * is not loaded, and what is loaded is compiled once and cached.
 */
import { enableCompileCache } from 'node:module'

enableCompileCache()
const { run } = await import('./cli.ts')
process.exitCode = await run(process.argv.slice(2))

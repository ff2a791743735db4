/**
 * The command line as a library: what tests, benchmarks and other programs start. `main.ts` is the program.
 *
 *   words --> options (by VERB_DATA) --> client --> server        commands/: start, agent, down, doctor, completion, console, exec
 */
export { run } from './cli.ts'
export { startPlatform, type Platform, type StartOptions } from './commands/start.ts'

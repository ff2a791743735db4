/** `driver check URL ...`: what a driver does of all that the toolstack's port promises, seen by trying it. */
import { join } from 'node:path'
import { Fault } from '@typevisor/base'
import { checkDriver, DRIVER_URLS, parseDriverUrl, type DriverUrl } from '@typevisor/agent/driver-check'
import { consoleLog, realClock, realRng, uuidv7Ids } from '@typevisor/runtime-node'
import { conformanceTable, type ConformanceReport } from '@typevisor/toolstack'
import { EXIT } from '../exit-codes.ts'
import { Progress } from '../progress.ts'
import type { Command, Terminal } from '../terminal.ts'

export const driver: Command = {
  summary: 'Try what a driver does: check sim:|qemu:',
  usage: `typevisor driver check ${DRIVER_URLS.join('|')} ... [--json]`,
  verbs: ['check'],
  json: true,
  flags: {},
  async run(words, terminal, json) {
    const [verb, ...urls] = words
    if (verb !== 'check') throw new Fault('invalid', `driver: got ${JSON.stringify(verb ?? '')}, want check`)
    if (urls.length === 0) throw new Fault('invalid', `driver check: want a driver, ${DRIVER_URLS.join(' or ')}`)
    const reports: Record<string, ConformanceReport> = {}
    for (const url of urls.map(parseDriverUrl)) reports[url.replace(':', '')] = await check(url, terminal)
    const broken = Object.entries(reports).flatMap(([name, { promises }]) =>
      promises.filter(({ kind }) => kind === 'broken').map((promise) => ({ name, ...promise })),
    )
    if (json) terminal.out(JSON.stringify(reports, null, 2))
    else {
      terminal.out(conformanceTable(Object.fromEntries(Object.entries(reports).map(([name, each]) => [name, each.operations]))))
      terminal.out('')
      for (const [name, { promises, capabilities }] of Object.entries(reports)) {
        const count = (kind: string): number => promises.filter((promise) => promise.kind === kind).length
        const skipped = count('skipped') > 0 ? `, ${count('skipped')} left out` : ''
        terminal.out(
          `${name} (${capabilities?.version ?? 'unknown'}): ${count('kept')} promises kept, ${count('broken')} broken${skipped}`,
        )
      }
      for (const { name, title, detail } of broken) terminal.out(`${name}: broken: ${title}\n  ${detail ?? ''}`)
    }
    return broken.length > 0 ? EXIT.failed : EXIT.ok
  },
}

/** Its guests, folders and mounts are taken away behind each. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

async function check(url: DriverUrl, terminal: Terminal): Promise<ConformanceReport> {
  const progress = new Progress(`driver check ${url}`)
  const withdrawn = new AbortController()
  const stop = (): void => withdrawn.abort(new Fault('aborted', 'driver check: interrupted; its domains are ended'))
  for (const name of SIGNALS) process.once(name, stop)
  const clock = realClock()
  const rng = realRng()
  const { env } = terminal
  const cacheFolder = join(env['XDG_CACHE_HOME'] ?? join(env['HOME'] ?? '/var', '.cache'), 'typevisor', 'driver-check')
  try {
    return await checkDriver(url, {
      clock,
      rng,
      ids: uuidv7Ids(clock, rng),
      log: consoleLog({ level: 'error' }),
      cacheFolder,
      signal: withdrawn.signal,
      preparing: (fraction, what) => progress.show(what, fraction),
      progress: ({ title }, { count, total }) => progress.show(title, count / total),
    })
  } finally {
    for (const name of SIGNALS) process.off(name, stop)
    progress.clear()
  }
}

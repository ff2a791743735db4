/**
 * The script as a program of the library: the text of docs/one-script.md itself, on two hosts with real guests and no server. Behind each line
 * that ends in the name of a step it stops, and what the step has led to is looked at.
 */
import assert from 'node:assert/strict'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import type { DomainId } from '@typevisor/model'
import { openHost, type Host } from './host.ts'
import type { HostOptions } from './host-parts.ts'
import { walk, whyNoScript, type Eyes, type StepName, type Walk } from './testing/script.ts'

interface Shown {
  readonly left: Host
  readonly right: Host
  readonly id: DomainId
}

/** The library's names are those of the packages, but for two. */
const PACKAGES: Readonly<Record<string, string>> = {
  host: 'agent/host',
  client: 'api/client',
}
const packageOf = (name: string): string => import.meta.resolve(`@typevisor/${PACKAGES[name] ?? name}`)

/** Tells of the hosts that it opens, stops behind each step, and is run from anywhere. */
async function program(hook: string): Promise<string> {
  const page = await readFile(new URL('../../../docs/one-script.md', import.meta.url), 'utf8')
  const [, code = ''] = /```ts\n([\s\S]*?)```/.exec(page) ?? []
  return code
    .replaceAll(/from 'typevisor\/([a-z-]+)'/g, (_, name: string) => `from '${packageOf(name)}'`)
    .replaceAll('await openHost(', `await ${hook}.open(`)
    .replaceAll(/ \/\/ ([a-z-]+)$/gm, (_, step: string) => `\nawait ${hook}.done('${step}', { left, right, id })`)
}

function eyesOf({ left, right, id }: Shown, folder: string): Eyes {
  const hosts = { left, right }
  /** While it moves both know of it; one has it. */
  const holder = () =>
    (['right', 'left'] as const).find((name) => hosts[name].toolstack.list().some((each) => each.id === id && !each.migration))
  const its = () => {
    const host = holder()
    assert.ok(host, 'no host has it')
    return hosts[host].toolstack
  }
  return {
    folders: { left: join(folder, 'left'), right: join(folder, 'right') },
    async look() {
      const host = holder()
      const record = host === undefined ? null : hosts[host].toolstack.get(id)
      if (host === undefined || record === null) return null
      const { state, forwards, snapshots } = record
      return { id, host, state: state.kind, why: JSON.stringify(state), snapshotCount: snapshots.length, forwards }
    },
    async inGuest(script) {
      const { exitCode, stdout } = await its().exec(id, { argv: ['/bin/sh', '-c', script], timeoutMs: 20_000 })
      assert.equal(exitCode, 0, script)
      return new TextDecoder().decode(stdout).trim()
    },
    async statistics() {
      const { balloonBytes, vcpus = [] } = await its().statistics(id)
      return { balloonBytes, vcpuCount: vcpus.length }
    },
    device: async (device) => (await its().devices(id)).find(({ name }) => name === device) ?? null,
  }
}

test('the program of the docs does what it says, on two hosts', { skip: whyNoScript(), timeout: 600_000 }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'typevisor-script-'))
  await chmod(folder, 0o711)
  const opened: Host[] = []
  let walking: Walk | null = null
  const hook = {
    async open(options: HostOptions): Promise<Host> {
      const host = await openHost(options)
      opened.push(host)
      return host
    },
    async done(step: StepName, shown: Shown): Promise<void> {
      walking ??= walk(eyesOf(shown, folder), (what) => t.diagnostic(what))
      await walking.done(step)
    },
  }
  Object.assign(globalThis, { scriptHook: hook })
  const path = join(folder, 'program.ts')
  await writeFile(path, await program('globalThis.scriptHook'))
  const words = process.argv.splice(2, Infinity, folder)
  try {
    await import(pathToFileURL(path).href)
    assert.ok(walking, 'it stopped at no step')
    ;(walking as Walk).over() // it is set by what was imported
  } finally {
    process.argv.splice(2, Infinity, ...words)
    await (walking as Walk | null)?.[Symbol.asyncDispose]()
    // What a step that did not do what it says has left.
    for (const host of opened) {
      await host.stopGuests().catch(() => {})
      await host.close()
    }
    await rm(folder, { recursive: true, force: true })
  }
})

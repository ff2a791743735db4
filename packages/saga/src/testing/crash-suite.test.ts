import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Fault } from '@typevisor/base'
import { defineSaga } from '../define.ts'
import { sagaCrashSuite } from '../testing.ts'

/** A host with volumes and domains, on which the same command twice is the same command once. */
interface Host {
  readonly volumes: Set<string>
  readonly domains: Map<string, string>
  readonly told: string[]
}

const create = defineSaga<{ name: string }, Host>({
  name: 'crash.create',
  steps: [
    { name: 'check', do: async ({ input }) => ({ output: `volume of ${input.name}` }) },
    {
      name: 'volume',
      do: async ({ services, outputs }) => void services.volumes.add(String(outputs['check'])),
      undo: async ({ services, outputs }) => void services.volumes.delete(String(outputs['check'])),
    },
    {
      name: 'domain',
      do: async ({ services, input }) => {
        if (services.volumes.size === 0) throw new Fault('conflict', 'no volume')
        services.domains.set(input.name, 'running')
      },
      undo: async ({ services, input }) => void services.domains.delete(input.name),
    },
  ],
  onDone: ({ services, input }) => [{ kind: 'call', run: () => void services.told.push(`created ${input.name}`) }],
})

sagaCrashSuite({
  definition: create,
  input: { name: 'web-1' },
  setup: async () => {
    const services: Host = { volumes: new Set(), domains: new Map(), told: [] }
    return { services, snapshot: () => structuredClone(services) }
  },
})

for (const defect of ['double', 'leak', 'order'] as const) {
  test(`the crash suite finds a saga with this defect: ${defect}`, () => {
    const { NODE_TEST_CONTEXT: _, ...env } = process.env
    const program = fileURLToPath(new URL('./crash-suite-defects.ts', import.meta.url))
    const { status, stdout } = spawnSync(process.execPath, ['--test-reporter=tap', program, defect], { env, encoding: 'utf8' })
    assert.equal(status, 1, stdout)
    assert.match(stdout, /^ok \d+ - defect: undisturbed it ends done/m)
    assert.match(stdout, /^not ok \d+ - defect: /m)
  })
}

import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { Fault, gib, mib } from '@typevisor/base'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { SIM_IMAGE } from '@typevisor/image'
import type { DomainId, DomainName, DomainSpec } from '@typevisor/model'
import { stateFile } from '@typevisor/saga'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import { checkRequest, TOOLSTACK_OPERATIONS, type OperationName } from './operations.ts'
import { openToolstack } from './toolstack.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
const SNAPSHOT = '0192f000-0000-7000-8000-00000000bbbb'
const NAMES = Object.keys(TOOLSTACK_OPERATIONS) as OperationName[]
const SPEC: DomainSpec = {
  name: 'web-1' as DomainName,
  vcpuCount: 1,
  memoryBytes: mib(128),
  image: SIM_IMAGE.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: 'web-1', user: null, sshKeys: [], userData: null },
  forwards: [{ protocol: 'tcp', hostPort: 0, guestPort: 80 }],
  labels: { env: 'test' },
}
const OFFER = { address: '127.0.0.1', port: 1, fingerprint: 'f', token: 't' }
/** What each takes beside the domain and the command. */
const TAKEN: Readonly<Record<OperationName, Record<string, unknown>>> = {
  define: { spec: SPEC },
  carryOut: { verb: 'start' },
  set: { patch: { vcpuCount: 2, affinityHard: [[0, 1]], reset: ['cpuWeight'] } },
  rename: { name: 'web-2' },
  snapshot: { snapshot: SNAPSHOT, name: 'good', memory: true, quiesce: 'try', timeoutMs: 1000 },
  revert: { snapshot: SNAPSHOT },
  removeSnapshot: { snapshot: SNAPSHOT },
  clone: { spec: SPEC, from: { domain: ID, snapshot: SNAPSHOT } },
  attach: { device: { kind: 'nic', name: 'lan', forwards: [] } },
  detach: { name: 'lan' },
  resizeDisk: { name: 'root', sizeBytes: gib(2) },
  changeMedium: { name: 'cd', medium: null },
  migrate: { offer: OFFER, parameters: {} },
}
const whole = (name: OperationName) => ({ id: ID, commandId: 'one', ...TAKEN[name] })

const refused = (name: OperationName, input: Record<string, unknown>): readonly string[] => {
  try {
    checkRequest(name, input)
    return []
  } catch (error) {
    assert.ok(error instanceof Fault && error.code === 'invalid', String(error))
    assert.ok(error.message.startsWith(`${name}: `))
    for (const { want, got } of error.details) assert.ok(want !== '' && got !== '' && got.length < 200)
    return error.details.map(({ path }) => path)
  }
}

test('each operation takes what it is for, and refuses what is missing, wrong or not known by its path', () => {
  for (const name of NAMES) {
    assert.deepEqual(refused(name, whole(name)), [], name)
    for (const field of ['id', 'commandId', ...Object.keys(TAKEN[name])]) {
      const input: Record<string, unknown> = whole(name)
      delete input[field]
      const paths = refused(name, input)
      const isOptional = TOOLSTACK_OPERATIONS[name].input.shape[field as 'id'].safeParse(undefined).success
      assert.equal(paths.includes(field), !isOptional, `${name} without ${field}`)
      for (const value of [Number.NaN, 'a\0b', [[]], { __proto__: null, nobody: 1 }, '\uD800'])
        assert.ok(
          refused(name, { ...whole(name), [field]: value }).some((path) => path.startsWith(field)),
          `${name} ${field}`,
        )
    }
    assert.deepEqual(refused(name, { ...whole(name), more: 1 }), ['more'])
  }
  assert.deepEqual(refused('define', { ...whole('define'), spec: { ...SPEC, memoryBytes: 100, vcpuCout: 1 } }), [
    'spec.memoryBytes',
    'spec.vcpuCout',
  ])
  const usb = { kind: 'usb', name: 'pen', model: 'tablet', sizeBytes: mib(1) }
  assert.deepEqual(refused('attach', { ...whole('attach'), device: usb }), ['device.sizeBytes'])
})

test('whatever comes, there is an answer, and it is no defect', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...NAMES).chain((name) => {
        const fields = Object.keys(TOOLSTACK_OPERATIONS[name].input.shape)
        const any = fc.oneof(fc.anything({ maxDepth: 3 }), fc.jsonValue())
        return fc.tuple(
          fc.constant(name),
          fc.record(Object.fromEntries(fields.map((field) => [field, any])), { requiredKeys: [] }),
        )
      }),
      ([name, input]) => void refused(name, { ...whole(name), ...input }),
    ),
    { numRuns: 2000 },
  )
})

test('what is refused has begun nothing', async () => {
  const clock = virtualClock()
  const hypervisor = new SimHypervisor(clock)
  const toolstack = await openToolstack({
    driver: createSimDriver({ hypervisor, clock }),
    volumes: memoryVolumeStore(),
    images: { get: async () => SIM_IMAGE },
    state: stateFile({ disk: simDisk({ rng: seededRng('operations') }), name: 'journal', clock, log: memoryLog() }),
    saves: hypervisor.saveFolder,
    clock,
    ids: sequentialIds(),
    log: memoryLog(),
    owner: 'test',
  })
  const sequence = toolstack.lastSequence()
  await assert.rejects(toolstack.define(ID, { ...SPEC, vcpuCount: 0 }, { commandId: 'one' }), {
    code: 'invalid',
    message: 'define: spec.vcpuCount: got 0, want at least 1',
  })
  assert.deepEqual([toolstack.list(), toolstack.lastSequence()], [[], sequence])
  // The command's id is not spent.
  assert.equal((await toolstack.define(ID, SPEC, { commandId: 'one' })).state.kind, 'stopped')
  await toolstack.close()
})

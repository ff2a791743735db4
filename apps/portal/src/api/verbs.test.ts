import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  byForce,
  firstVerb,
  guestRefusal,
  refusal,
  renameRefusal,
  screenRefusal,
  settingsRefusal,
  verbsOf,
  verbsOfAll,
  type Instance,
} from './verbs.ts'

const instance = (kind: Instance['state']['kind'], change: Partial<Instance> = {}): Instance => ({
  id: 'i-1',
  name: 'web-1',
  image: 'micro',
  host: 'local',
  hostConnected: true,
  vcpuCount: 1,
  vcpuCountMax: 1,
  memoryBytes: 1,
  memoryBytesMax: 1,
  hugePages: false,
  architecture: 'x86_64',
  firmware: 'bios',
  tpm: false,
  bootOrder: ['disk'],
  settings: {
    memoryTargetBytes: null,
    cpuWeight: null,
    cpuCapPercent: null,
    affinityHard: null,
    affinitySoft: null,
    diskLimits: [],
    autostart: false,
    autostartOrder: 100,
    onCrash: 'keep',
    notes: [],
  },
  rootDiskBytes: 1,
  labels: {},
  forwards: [],
  state: { kind, cause: 'requested', detail: null, since: 0 },
  operation: null,
  snapshotCount: 0,
  dump: null,
  createdAt: 0,
  ...change,
})

test('a running machine is not started, and a stopped one not shut down', () => {
  assert.equal(refusal('start', instance('running'), 'admin'), 'It is running')
  assert.equal(refusal('start', instance('stopped'), 'admin'), null)
  assert.equal(refusal('shutdown', instance('stopped'), 'admin'), 'It is stopped')
})

test('one that waits for room on its disk can be paused, and one that was paused cannot', () => {
  const paused = (cause: string) => instance('paused', { state: { kind: 'paused', cause, detail: null, since: 0 } })
  assert.equal(refusal('pause', paused('disk-full'), 'operator'), null)
  assert.equal(refusal('pause', paused('requested'), 'operator'), 'It is paused')
  assert.ok(verbsOf(paused('disk-full')).includes('unpause'))
})

test('an instance that an operation holds waits for its end', () => {
  assert.equal(
    refusal('start', instance('stopped', { operation: { id: 'o', name: 'instance.save' } }), 'admin'),
    'Save is under way',
  )
})

test('a viewer is told that the role does not allow it', () => {
  assert.match(refusal('start', instance('stopped'), 'viewer') ?? '', /viewer/)
})

test('a host that is away is named', () => {
  assert.equal(refusal('start', instance('stopped', { hostConnected: false }), 'admin'), 'Host local is not connected')
})

test('an instance in the making has no verbs', () => {
  for (const kind of ['creating', 'destroying'] as const) assert.deepEqual(verbsOf(instance(kind)), [])
})

test('an instance whose making failed can only be removed', () => {
  assert.deepEqual(verbsOf(instance('failed')), ['destroy'])
  assert.equal(refusal('destroy', instance('failed'), 'operator'), null)
})

test('the first verb of a state can be done in it', () => {
  for (const kind of ['stopped', 'running', 'paused', 'saved', 'crashed', 'failed'] as const) {
    const verb = firstVerb(instance(kind))
    assert.ok(verb)
    assert.equal(refusal(verb, instance(kind), 'operator'), null)
  }
})

test('a choice of several counts those that each verb reaches', () => {
  const chosen = [instance('running'), instance('stopped'), instance('running')]
  const counts = Object.fromEntries(verbsOfAll(chosen, 'operator').map(({ verb, instances }) => [verb, instances.length]))
  assert.equal(counts['shutdown'], 2)
  assert.equal(counts['start'], 1)
  assert.equal(counts['destroy'], 3)
  assert.equal(counts['unpause'], undefined)
})

test('what is on a host that is away can be destroyed by force, whatever its state and whatever holds it', () => {
  for (const kind of ['running', 'creating', 'destroying'] as const) {
    const away = instance(kind, { hostConnected: false, operation: { id: 'o', name: 'instance.pause' } })
    assert.equal(refusal('destroy', away, 'operator'), null)
    assert.ok(verbsOf(away).includes('destroy'))
    assert.equal(byForce('destroy', away), true)
  }
  assert.equal(byForce('destroy', instance('running')), false)
  assert.match(refusal('destroy', instance('running', { hostConnected: false }), 'viewer') ?? '', /viewer/)
})

test('settings are changed of what stands, runs or is paused, by whoever may, where its host answers', () => {
  for (const kind of ['stopped', 'running', 'paused'] as const) assert.equal(settingsRefusal(instance(kind), 'operator'), null)
  for (const kind of ['saved', 'crashed', 'creating', 'failed'] as const)
    assert.equal(settingsRefusal(instance(kind), 'operator'), `It is ${kind}`)
  assert.equal(settingsRefusal(instance('running'), 'viewer'), 'Your role, viewer, may not do this')
  assert.equal(settingsRefusal(instance('running', { hostConnected: false }), 'admin'), 'Host local is not connected')
  const operation = { id: 'o-1', name: 'instance.start' }
  assert.equal(settingsRefusal(instance('stopped', { operation }), 'admin'), 'Start is under way')
})

test('a name is given in any state that a machine can be in, where its host answers', () => {
  for (const kind of ['stopped', 'running', 'paused', 'saved', 'crashed'] as const)
    assert.equal(renameRefusal(instance(kind), 'operator'), null)
  for (const kind of ['creating', 'destroying', 'failed'] as const)
    assert.equal(renameRefusal(instance(kind), 'operator'), `It is ${kind}`)
  assert.match(renameRefusal(instance('running'), 'viewer') ?? '', /viewer/)
  assert.equal(renameRefusal(instance('running', { hostConnected: false }), 'admin'), 'Host local is not connected')
})

test('a guest that runs is spoken to; a picture is also of one that stands still', () => {
  for (const operation of ['instance.exec', 'instance.file-get', 'instance.file-put', 'instance.password'] as const) {
    assert.equal(guestRefusal(operation, instance('running'), 'operator'), null)
    assert.equal(guestRefusal(operation, instance('paused'), 'operator'), 'It is paused')
    assert.match(guestRefusal(operation, instance('running'), 'viewer') ?? '', /viewer/)
  }
  assert.equal(screenRefusal('instance.keys', instance('paused'), 'operator'), 'It is paused')
  for (const kind of ['running', 'paused', 'crashed'] as const)
    assert.equal(screenRefusal('instance.screenshot', instance(kind), 'viewer'), null)
  assert.equal(screenRefusal('instance.screenshot', instance('stopped'), 'operator'), 'It is stopped')
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mib } from '@typevisor/base'
import type { Instance } from '../../api/verbs.ts'
import { bodyOf, draftOf, limitOf, limitsOf } from './resource-draft.ts'

const settings: Instance['settings'] = {
  memoryTargetBytes: mib(192),
  cpuWeight: null,
  cpuCapPercent: 50,
  affinityHard: ['0-1', '3'],
  affinitySoft: null,
  diskLimits: [],
  autostart: false,
  autostartOrder: 100,
  onCrash: 'keep',
  notes: [],
}
// What the draft reads of it.
const instance = { vcpuCount: 2, memoryBytes: mib(256), settings } as unknown as Instance

test('a draft that nobody has touched sends nothing', () => {
  assert.deepEqual(bodyOf(draftOf(instance), {}, instance), {})
})

test('what was changed is sent, what was emptied is reset, and nothing else', () => {
  const draft = { ...draftOf(instance), vcpuCount: ' 3 ', memory: '512M', memoryTarget: '', cpuWeight: '200', affinityHard: '2' }
  assert.deepEqual(bodyOf(draft, {}, instance), {
    vcpuCount: 3,
    memoryBytes: mib(512),
    cpuWeight: 200,
    affinityHard: ['2'],
    reset: ['memoryTargetBytes'],
  })
})

test('a size or a number that is none is refused', () => {
  assert.throws(() => bodyOf({ ...draftOf(instance), cpuWeight: 'heavy' }, {}, instance), { code: 'invalid' })
  assert.throws(() => bodyOf({ ...draftOf(instance), memory: 'much' }, {}, instance), { code: 'invalid' })
})

test('limits are said as they are shown; those that were changed are sent, and what is emptied has none', () => {
  const limited = {
    ...instance,
    settings: { ...settings, diskLimits: [{ disk: 'root', bytesPerSecond: mib(10), operationsPerSecond: 200 }] },
  }
  const limits = limitsOf(limited, ['root', 'data'])
  assert.deepEqual(limits, { root: '10 MiB/s, 200 operations/s', data: '' })
  assert.deepEqual(bodyOf(draftOf(limited), limits, limited), {})
  assert.deepEqual(bodyOf(draftOf(limited), { root: ' ', data: '50 ops, 1.5 GiB/s' }, limited), {
    diskLimits: [
      { disk: 'root', bytesPerSecond: 0, operationsPerSecond: 0 },
      { disk: 'data', bytesPerSecond: mib(1536), operationsPerSecond: 50 },
    ],
  })
  for (const said of ['fast', '10M', '200', 'x/s', '-1 operations/s', '10M/s 200 operations/s'])
    assert.throws(() => limitOf('root', said), { code: 'invalid', message: /root: / }, said)
})

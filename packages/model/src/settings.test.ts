import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bytes, Fault, mib } from '@typevisor/base'
import * as fc from 'fast-check'
import {
  assertSettings,
  changedSettings,
  formatCpuList,
  machineSettings,
  parseCpuList,
  patched,
  type DomainSettings,
  type SettingsPatch,
} from './settings.ts'

const SPEC = { vcpuCount: 2, vcpuCountMax: 4, memoryBytes: mib(128), memoryBytesMax: mib(512) }

test('a patch changes what it names, resets what it is told to, and merges the limits of disks by disk', () => {
  const before: DomainSettings = {
    vcpuCount: 3,
    cpuWeight: 200,
    diskLimits: [
      { disk: 'root', bytesPerSecond: 1000 },
      { disk: 'seed', operationsPerSecond: 5 },
    ],
  }
  const after = patched(before, {
    cpuCapPercent: 50,
    reset: ['cpuWeight'],
    diskLimits: [
      { disk: 'root', bytesPerSecond: 0 },
      { disk: 'data', operationsPerSecond: 7 },
    ],
  })
  assert.deepEqual(after, {
    vcpuCount: 3,
    cpuCapPercent: 50,
    diskLimits: [
      { disk: 'seed', operationsPerSecond: 5 },
      { disk: 'data', operationsPerSecond: 7 },
    ],
  })
  assert.deepEqual(changedSettings(before, after), ['cpuWeight', 'cpuCapPercent', 'diskLimits'])
  assert.deepEqual(patched(before, {}), before)
  assert.deepEqual(patched(before, { reset: ['vcpuCount', 'cpuWeight', 'diskLimits'] }), {})
  const both: SettingsPatch = { reset: ['cpuWeight'], cpuWeight: 7 }
  assert.equal(patched(before, both).cpuWeight, 7, 'what is reset and set is set')
})

test('a guest goes back to its machine, and its host to nothing', () => {
  const now: DomainSettings = { vcpuCount: 4, cpuWeight: 200, memoryTargetBytes: mib(64) }
  assert.deepEqual(machineSettings(now, { vcpuCount: 3, cpuWeight: 1, memoryBytes: mib(256) }), {
    vcpuCount: 3,
    memoryBytes: mib(256),
    cpuWeight: 200,
  })
  assert.deepEqual(machineSettings(now, {}), { cpuWeight: 200 })
})

test('what a domain cannot have is refused by the name of the setting', () => {
  const refused = (settings: DomainSettings, path: string, words: RegExp) =>
    assert.throws(
      () => assertSettings(settings, SPEC, ['root']),
      (error) =>
        error instanceof Fault && error.code === 'invalid' && error.details[0]?.path === path && words.test(error.message),
      JSON.stringify(settings),
    )
  refused({ vcpuCount: 5 }, 'vcpuCount', /want 1 to 4/)
  refused({ vcpuCount: 0 }, 'vcpuCount', /want 1 to 4/)
  refused({ vcpuCount: 1.5 }, 'vcpuCount', /got 1.5/)
  refused({ memoryBytes: mib(64) }, 'memoryBytes', /want 134217728 to 536870912/)
  refused({ memoryBytes: mib(129) }, 'memoryBytes', /multiple of 2097152/)
  refused({ memoryBytes: mib(256), memoryTargetBytes: mib(128) }, 'memoryTargetBytes', /want 167772160 to 268435456/)
  refused({ memoryTargetBytes: mib(256) }, 'memoryTargetBytes', /want 33554432 to 134217728/)
  refused({ memoryTargetBytes: bytes(mib(64) + 1) }, 'memoryTargetBytes', /multiple/)
  refused({ cpuWeight: 10_001 }, 'cpuWeight', /1 to 10000/)
  refused({ cpuCapPercent: -1 }, 'cpuCapPercent', /0 to 100000/)
  refused({ affinityHard: [[]] }, 'affinityHard', /at least one CPU/)
  refused({ diskLimits: [{ disk: 'tape' }] }, 'diskLimits', /a disk of it: root/)
  refused({ diskLimits: [{ disk: 'root', bytesPerSecond: -1 }] }, 'diskLimits', /got -1/)
  const { vcpuCountMax: _count, memoryBytesMax: _bytes, ...fixed } = SPEC
  assert.throws(() => assertSettings({ vcpuCount: 3 }, fixed, null), /want 1 to 2/)
  assert.throws(() => assertSettings({ memoryBytes: mib(256) }, fixed, null), /want 134217728, which/)
  const most: DomainSettings = {
    vcpuCount: 4,
    memoryBytes: mib(512),
    memoryTargetBytes: mib(416),
    cpuWeight: 1,
    cpuCapPercent: 0,
  }
  assertSettings(most, SPEC, ['root'])
})

test('a list of CPUs is read as it is written, and anything else is refused', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.integer({ min: 0, max: 300 }), { minLength: 1 }), (cpus) => {
      const sorted = cpus.toSorted((a, b) => a - b)
      assert.deepEqual(parseCpuList('cpus', formatCpuList(sorted)), sorted)
    }),
  )
  assert.equal(formatCpuList([0, 1, 2, 3, 8, 10, 11]), '0-3,8,10-11')
  assert.deepEqual(parseCpuList('cpus', '3, 1-2 ,2'), [1, 2, 3])
  for (const bad of ['', ',', '1-', '-1', '3-1', 'a', '1;2', '99999', '0-5000'])
    assert.throws(() => parseCpuList('cpus', bad), { code: 'invalid', message: /^cpus: got .*want CPUs as 0-3,8/ }, bad)
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        assert.ok(parseCpuList('cpus', text).length > 0)
      } catch (error) {
        assert.ok(error instanceof Fault && error.code === 'invalid')
      }
    }),
  )
})

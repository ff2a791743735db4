import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import type { ConformanceReport } from '@typevisor/toolstack'

const run = (...words: string[]) =>
  spawnSync(join(import.meta.dirname, '../../../../typevisor'), ['driver', ...words], { encoding: 'utf8', timeout: 120_000 })

test('driver check tries a driver with no platform running, and prints the table', () => {
  const { status, stdout, stderr } = run('check', 'sim:')
  assert.equal(status, 0, stderr)
  assert.match(stdout, /\| create, paused \| `create` \| yes \|/)
  assert.match(stdout, /\| screen \| `openVnc` \| refused \|/)
  assert.match(stdout, /- sim, `openVnc`: vnc: domains in memory have no screen/)
  assert.match(stdout, /sim \(sim .*\): \d+ promises kept, 0 broken/)
  assert.doesNotMatch(stdout, /not tried/)
  const report = (JSON.parse(run('check', 'sim:', '--json').stdout) as { sim: ConformanceReport }).sim
  assert.ok(report.promises.length > 20 && report.promises.every(({ kind }) => kind !== 'broken'))
  assert.equal(report.operations.create.kind, 'yes')
})

test('driver check names what is wrong with its words', () => {
  for (const [words, told] of [
    [['check'], /want a driver, sim: or qemu:/],
    [['check', 'vmware:'], /got "vmware:", want sim: or qemu:/],
    [['chekc', 'sim:'], /got "chekc"/],
  ] as const) {
    const { status, stderr } = run(...words)
    assert.equal(status, 2, stderr)
    assert.match(stderr, told)
  }
})

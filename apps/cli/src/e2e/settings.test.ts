/** Settings of instances from the command line, as docs/cli.md shows them, on a real guest. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mib } from '@typevisor/base'
import { run as runWords } from './child.ts'
import { documented } from './documented.ts'
import { openPlatform } from './harness.ts'

for (const driver of ['sim', 'qemu'] as const) {
  test(`what the docs show of settings is done, with ${driver}`, { timeout: 300_000 }, async () => {
    await using world = await openPlatform({ driver })
    const environment = { TYPEVISOR_DATA: world.dataDir }
    const run = async (...words: string[]): Promise<string> => {
      const { code, said } = await runWords(words, environment)
      // Only root makes cgroups, unless it has given a folder away.
      if (words.includes('--cpu-cap') && driver === 'qemu' && process.getuid?.() !== 0) assert.match(said, /cgroup/)
      else assert.equal(code, 0, `${words.join(' ')}: ${said}`)
      return said
    }
    const params = { instance: 'web-1' }
    const count = async () => {
      const argv = driver === 'sim' ? ['nproc'] : ['/bin/sh', '-c', 'nproc']
      return atob((await world.client.call('instance.exec', { params, body: { argv } })).stdoutBase64).trim()
    }
    if (driver === 'qemu') await run('image', 'build', 'micro')
    const said: string[] = []
    for (const words of documented('Settings of instances')) said.push(await run(...words))
    assert.match(said.at(-2) ?? '', /vcpus max +3\n/)
    assert.match(said.at(-2) ?? '', /memory target +320 MiB/)
    assert.match(said.at(-1) ?? '', /INDEX +CPU TIME +WAIT TIME/)
    assert.equal(await count(), '2')
    const { settings, vcpuCount, memoryBytes } = await world.client.call('instance.get', { params })
    assert.deepEqual([vcpuCount, memoryBytes, settings.memoryTargetBytes, settings.cpuWeight], [2, mib(384), mib(320), null])
    assert.deepEqual([settings.affinityHard, settings.diskLimits[0]?.operationsPerSecond], [['0'], 500])
    await run('instance', 'poweroff', 'web-1', '--yes')
    await run('instance', 'start', 'web-1', '--wait', 'agent')
    assert.equal(await count(), '2')
    const refused = await runWords(['instance', 'set', 'web-1', '--vcpus', '4'], environment)
    assert.notEqual(refused.code, 0)
    assert.match(refused.said, /--vcpus: got "4", want 1 to 3/)
    const wrong = await runWords(['instance', 'set', 'web-1', '--disk-limit', 'root=10M'], environment)
    assert.match(wrong.said, /--disk-limit: got "root=10M", want DISK:bytes=SIZE,operations=N/)
    await run('instance', 'destroy', 'web-1', '--yes')
  })
}

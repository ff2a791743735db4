/** Snapshots of instances from the command line, as docs/cli.md shows them: on a real guest, on volumes of a server of their own. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { run as runWords } from './child.ts'
import { documented, succeeds } from './documented.ts'
import { openPlatform } from './harness.ts'

for (const driver of ['sim', 'qemu'] as const) {
  test(`what the docs show of snapshots is done, with ${driver}`, { timeout: 300_000 }, async () => {
    await using world = await openPlatform({ driver })
    const env = { TYPEVISOR_DATA: world.dataDir }
    const run = succeeds(env)
    const state = async (name: string) => {
      const { state: now } = await world.client.call('instance.get', { params: { instance: name } })
      return now.kind
    }
    const inGuest = async (name: string, script: string): Promise<string[]> => {
      const body = { argv: ['/bin/sh', '-c', script] }
      const reply = await world.client.call('instance.exec', { params: { instance: name }, body })
      assert.equal(reply.exitCode, 0, script)
      return Buffer.from(reply.stdoutBase64, 'base64').toString().trim().split('\n')
    }
    if (driver === 'qemu') await run('image', 'build', 'micro')
    await run('instance', 'create', 'web-1', '--wait', 'agent')
    // Not written back: the copy has it because its guest froze its file systems.
    if (driver === 'qemu') await inGuest('web-1', 'echo kept >/root/before')
    const lines = documented('Snapshots of instances')
    assert.equal(lines.length, 8)
    const said: string[] = []
    for (const words of lines) said.push(await run(...words))
    const list = said[2] ?? ''
    assert.match(list, /NAME +OF +MEMORY +QUIESCED +AGE/)
    assert.match(list, /monday +running +- +yes/)
    assert.match(list, /busy +running +[\d.]+ [KMG]iB +yes/)
    assert.deepEqual([await state('web-1'), await state('web-2'), await state('web-3')], ['running', 'running', 'running'])
    if (driver === 'qemu') {
      await run('instance', 'reboot', 'web-3', '--wait', 'agent')
      assert.deepEqual(await inGuest('web-3', 'cat /root/before; hostname'), ['kept', 'web-3'])
      const macs = await Promise.all(['web-1', 'web-3'].map((name) => inGuest(name, 'cat /sys/class/net/eth0/address')))
      assert.notDeepEqual(macs[0], macs[1])
    }
    const { items } = await world.client.call('instance.snapshots', { params: { instance: 'web-1' } })
    assert.deepEqual(
      items.map(({ name }) => name),
      ['busy'],
    )
    const asked = await runWords(['instance', 'destroy', 'web-1'], env)
    assert.equal(asked.code, 2)
    assert.match(asked.said, /web-1 is removed with its disks and its snapshot\. Say --yes/)
    await run('instance', 'destroy', 'web-1', '--yes')
    await run('instance', 'destroy', 'web-2', '--yes')
    await run('instance', 'destroy', 'web-3', '--yes')
  })
}

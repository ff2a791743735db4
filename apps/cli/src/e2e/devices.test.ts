/** Devices of instances from the command line, as docs/cli.md shows them: on a real guest, on volumes of a server of their own. */
import assert from 'node:assert/strict'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { run as runWords } from './child.ts'
import { documented, succeeds } from './documented.ts'
import { openPlatform } from './harness.ts'

for (const driver of ['sim', 'qemu'] as const) {
  test(`what the docs show of devices is done, with ${driver}`, { timeout: 300_000 }, async () => {
    await using world = await openPlatform({ driver })
    const env = { TYPEVISOR_DATA: world.dataDir }
    const run = succeeds(env)
    const inGuest = async (script: string): Promise<string> => {
      const { stdoutBase64 } = await world.client.call('instance.exec', {
        params: { instance: 'web-1' },
        body: { argv: ['/bin/sh', '-c', script] },
      })
      return atob(stdoutBase64).trim()
    }
    /** What each line leads to, seen from within. */
    const seen: Partial<Record<string, (said: string) => Promise<void>>> =
      driver === 'sim'
        ? {}
        : {
            'attach web-1 disk data --size 1G': async () =>
              assert.equal(
                await inGuest(
                  'head -c 4096 /dev/urandom > /root/sent; dd if=/root/sent of=/dev/vdc conv=fsync 2>/dev/null; cat /sys/block/vdc/size /sys/block/vdc/serial',
                ),
                '2097152\ndata',
              ),
            'resize web-1 data --size 2G': async () => assert.equal(await inGuest('cat /sys/block/vdc/size'), '4194304'),
            'insert web-1 cd debian.iso': async () =>
              assert.match(await inGuest('modprobe virtio_scsi; modprobe sr_mod; head -c 11 /dev/sr0'), /^no real iso/),
            'detach web-1 data': async () => assert.equal(await inGuest('ls /sys/block | grep vdc'), ''),
            'attach web-1 disk data': async () =>
              assert.equal(await inGuest('head -c 4096 /dev/vdc | cmp - /root/sent && echo same'), 'same'),
          }
    if (driver === 'qemu') {
      await run('image', 'build', 'micro')
      await mkdir(join(world.dataDir, 'agent', 'media'), { recursive: true })
      await writeFile(join(world.dataDir, 'agent', 'media', 'debian.iso'), 'no real iso'.padEnd(10_000))
    }
    await run('instance', 'create', 'web-1', '--wait', 'agent')
    const lines = documented('Devices of instances')
    assert.equal(lines.length, 11)
    for (const words of lines) {
      const said = await run(...words)
      await seen[words.slice(1).join(' ')]?.(said)
      if (words[1] !== 'devices') continue
      assert.match(said, /NAME +KIND +STATE +PORT +ADDRESS +SIZE +WHAT/)
      assert.match(said, /data +disk +attached +port0 +0\.0 +1 GiB/)
      assert.match(said, /pointer +usb +attached .*tablet/)
      assert.match(said, /cd +cd +attached .*debian\.iso/)
      const { forwards } = await world.client.call('instance.get', { params: { instance: 'web-1' } })
      assert.ok(forwards.some(({ guestPort, hostPort }) => guestPort === 8080 && hostPort > 0))
    }
    const left = await world.client.call('instance.devices', { params: { instance: 'web-1' } })
    assert.deepEqual(
      left.items.filter(({ detachable }) => detachable).map(({ name, medium }) => [name, medium]),
      [
        ['lan', null],
        ['usb', null],
        ['pointer', null],
        ['cd', null],
      ],
    )
    assert.ok(!left.items.some(({ state, name }) => state === 'kept' || name === 'data'))
    const none = await runWords(['instance', 'attach', 'web-1', 'disk', 'more'], env)
    assert.equal(none.code, 2)
    assert.match(none.said, /want a size: no volume more of web-1 is kept/)
    const wrong = await runWords(['instance', 'attach', 'web-1', 'nic', 'wan', '--size', '1G'], env)
    assert.match(wrong.said, /--size: .*a nic has none/)
    const missing = await runWords(['instance', 'insert', 'web-1', 'cd', 'other.img'], env)
    assert.equal(missing.code, 3)
    await run('instance', 'resize', 'web-1', 'root', '--size', '2G')
    assert.equal((await world.client.call('instance.get', { params: { instance: 'web-1' } })).rootDiskBytes, 2 * 1024 ** 3)
    if (driver === 'qemu') assert.equal(await inGuest('cat /sys/block/vda/size'), '4194304')
    await run('instance', 'destroy', 'web-1', '--yes')
  })
}

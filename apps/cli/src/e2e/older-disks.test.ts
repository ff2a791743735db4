/** A domain of an older data directory, whose disk is a qcow2 overlay, goes on as it is: it starts, writes, and moves to another host, where it is a volume. */
import assert from 'node:assert/strict'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { gib, mib } from '@typevisor/base'
import { openHost } from '@typevisor/agent'
import { parseDomainId, parseDomainName, parseImageName, parseVolumeId } from '@typevisor/model'
import { consoleLog, isRoot, realClock, realRng, userByName, uuidv7Ids } from '@typevisor/runtime-node'
import { askServer, nodeCommandRunner, nodeVolumeFiles, qcow2VolumeStore } from '@typevisor/storage'
import { endAll, guestsOf, processesOf, until } from './child.ts'
import { temporaryFolder } from './harness.ts'

test('a disk of before stays a qcow2 overlay, beside new ones on the volume server', async () => {
  const folder = await temporaryFolder()
  const dataDir = join(folder, 'agent')
  const [clock, rng, log] = [realClock(), realRng(), consoleLog({ level: 'error' })]
  const ids = uuidv7Ids(clock, rng)
  const otherDir = join(folder, 'other')
  const open = (name: string, at: string) =>
    openHost({ name, dataDir: at, driver: 'qemu', version: 'test', clock, rng, ids, log })
  const [host, other] = [await open('local', dataDir), await open('other', otherDir)]
  try {
    await other.images.build(parseImageName('micro'))
    const image = await host.images.build(parseImageName('micro'))
    const id = parseDomainId(ids.next())
    const user = isRoot() ? userByName('typevisor-qemu') : null
    const files = qcow2VolumeStore({
      files: await nodeVolumeFiles({ folder: join(dataDir, 'volumes'), ...(user ? { owner: user } : {}) }),
      runner: nodeCommandRunner(),
    })
    await files.clone(parseVolumeId(`${id}.root`), image.rootDisk, gib(1))
    const command = () => ({ commandId: ids.next() })
    const spec = {
      name: parseDomainName('old'),
      image: image.name,
      vcpuCount: 1,
      memoryBytes: mib(160),
      rootDiskBytes: gib(1),
      forwards: [],
      labels: {},
      cloudInit: { hostname: 'old', user: null, sshKeys: [], userData: null },
    }
    await host.toolstack.define(id, spec, command())
    await host.toolstack.carryOut('start', id, command())
    const pid = guestsOf(dataDir).get(id)
    assert.match(processesOf(`-uuid ${id}`).find((each) => each.pid === pid)?.command ?? '', /"driver":"qcow2"/)
    const write = { argv: ['/bin/sh', '-c', 'echo here > /root/file && sync && cat /root/file'], timeoutMs: 20_000 }
    await until('the guest writes', () =>
      host.toolstack.exec(id, write).then(
        ({ exitCode }) => exitCode === 0,
        () => false,
      ),
    )
    const server = await askServer(join(dataDir, 'disks'))
    assert.equal((await server?.call('hello', {}))?.attachmentCount, 0)
    server?.close()
    await host.toolstack.carryOut('poweroff', id, command())
    const offer = await other.toolstack.receive(id, await host.toolstack.migrationRequest(id), command())
    assert.ok((await host.toolstack.migrate(id, offer, command())).confirmed)
    assert.deepEqual(await readdir(join(dataDir, 'volumes')), [])
    await other.toolstack.carryOut('start', id, command())
    const read = { argv: ['/bin/cat', '/root/file'], timeoutMs: 20_000 }
    await until('it has what it wrote', () =>
      other.toolstack.exec(id, read).then(
        ({ stdout }) => new TextDecoder().decode(stdout) === 'here\n',
        () => false,
      ),
    )
    await other.toolstack.carryOut('destroy', id, command())
    assert.deepEqual(await readdir(join(otherDir, 'volumes')), [])
  } finally {
    for (const each of [host, other]) {
      await each.stopGuests()
      await each.close()
    }
    for (const at of [dataDir, otherDir]) await endAll(folder, at)
    await rm(folder, { recursive: true, force: true })
  }
})

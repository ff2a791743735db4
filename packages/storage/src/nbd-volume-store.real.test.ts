import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault, mib, type Log } from '@typevisor/base'
import { parseVolumeId } from '@typevisor/model'
import { connectNbd, listNbdExports } from '@typevisor/nbd'
import { lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { nbdVolumeStore } from './nbd-volume-store.ts'
import { nodeCommandRunner } from './node-command.ts'
import { nodeVolumeFiles } from './node-files.ts'
import { nodeMasterRecords } from './node-master-records.ts'
import { openServed } from './node-streams.ts'
import { openVolumeFolder } from './node-volume-folder.ts'
import { askServer } from './node-volume-server.ts'
import type { CommandRunner, VolumeInfo } from './ports.ts'
import { qcow2VolumeStore } from './qcow2.ts'
import { volumeStoreConformance } from './testing.ts'

const noQemuImg = spawnSync('qemu-img', ['--version']).status === 0 ? false : 'qemu-img is missing: install qemu-utils'
const HOLDER = '11111111-2222-4333-8444-555555555555'
const id = (index: number) => parseVolumeId(`01890000-0000-7000-8000-${String(index).padStart(12, '0')}`)
const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, with: () => quiet }

/** 64 MiB, of which the first and the last 256 KiB are not zeros. */
const contentOf = (word: string): Buffer =>
  Buffer.concat([Buffer.alloc(256 * 1024, word), Buffer.alloc(mib(64) - 512 * 1024), Buffer.alloc(256 * 1024, word)])

interface WorldOptions {
  readonly runner?: CommandRunner
  readonly root?: string
}

/** A folder that is served by this process, asked by its control socket as by any other. */
async function world({ runner = nodeCommandRunner(), root: given }: WorldOptions = {}) {
  // Hostile on purpose: qemu-img would read `:` as a protocol and `,` as the next option.
  const root = given ?? (await mkdtemp(join(tmpdir(), 'typevisor,nbd-')))
  await mkdir(join(root, 'nbd:x,y'), { recursive: true })
  await mkdir(join(root, 'run'), { recursive: true })
  const base = { path: join(root, 'nbd:x,y', 'base.raw'), format: 'raw' as const }
  if (given === undefined) await writeFile(base.path, contentOf('gold'))
  const dir = join(root, 'disks')
  const folder = await openVolumeFolder({ dir, create: true, lock: lockFile, clock: realClock(), rng: realRng(), log: quiet })
  await folder.answer({ version: 'test', stop: () => void folder.close() })
  const server = await askServer(dir)
  assert.ok(server)
  const store = nbdVolumeStore({
    call: server.call,
    holder: HOLDER,
    files: qcow2VolumeStore({ files: await nodeVolumeFiles({ folder: join(root, 'files') }), runner }),
    masters: await nodeMasterRecords(join(dir, 'masters')),
    runner,
    socketPathOf: (volume) => join(root, 'run', `${volume}.sock`),
    connect: (exportName) => openServed(dir, exportName),
    clock: realClock(),
    log: quiet,
  })
  const end = async (): Promise<void> => {
    server.close()
    await folder.close()
  }
  return {
    root,
    dir,
    base,
    store,
    server,
    folder,
    unitBytes: 4096,
    missingBase: { path: join(root, 'none.raw'), format: 'raw' as const },
    async open({ source }: VolumeInfo) {
      assert.ok(source.kind === 'nbd')
      const { socketPath, exportName } = source
      await server.call('attach', { volume: exportName, socketPath })
      const client = await connectNbd({ address: { socketPath }, exportName })
      return Object.assign(client, {
        async [Symbol.asyncDispose]() {
          await client.close()
          await server.call('detach', { socketPath })
        },
      })
    },
    end,
    async close() {
      await end()
      await rm(root, { recursive: true, force: true })
    },
  }
}

volumeStoreConformance('NBD volumes of a server', () => world(), noQemuImg)

test(
  'a base is imported once, also by two at a time; each clone after it asks qemu-img nothing',
  { skip: noQemuImg },
  async () => {
    const real = nodeCommandRunner()
    let count = 0
    const runner: CommandRunner = {
      run(argv, options) {
        if (argv[1] === 'convert') count += 1
        return real.run(argv, options)
      },
    }
    const under = await world({ runner })
    try {
      const made = await Promise.all([
        under.store.clone(id(1), under.base, mib(64)),
        under.store.clone(id(2), under.base, mib(80)),
      ])
      await under.store.clone(id(3), under.base, mib(64))
      assert.equal(count, 1)
      for (const volume of made) {
        await using disk = await under.open(volume)
        const content = Buffer.alloc(mib(64))
        await disk.read(0, content)
        assert.ok(content.equals(contentOf('gold')))
      }
      // Another file at the same path is another base.
      await writeFile(under.base.path, contentOf('new!'))
      await using disk = await under.open(await under.store.clone(id(4), under.base, mib(64)))
      const content = Buffer.alloc(4)
      await disk.read(0, content)
      assert.deepEqual([content.toString(), count], ['new!', 2])
      const names = (await under.server.call('list', {})).map(({ name }) => name).filter((name) => name.startsWith('gold-'))
      assert.equal(names.length, 1, 'the master of the file that is gone is gone')
    } finally {
      await under.close()
    }
  },
)

test('an import that was cut short counts for nothing, and leaves nothing', { skip: noQemuImg }, async () => {
  const stop = new AbortController()
  const real = nodeCommandRunner()
  const under = await world({
    runner: {
      run(argv, options) {
        if (argv[1] === 'convert') stop.abort(new Fault('aborted', 'no more'))
        return real.run(argv, options)
      },
    },
  })
  try {
    await assert.rejects(under.store.clone(id(1), under.base, mib(64), { signal: stop.signal }), /no more/)
    assert.deepEqual(await under.server.call('list', {}), [])
    assert.deepEqual(await readdir(join(under.root, 'run')), [])
    // As a kill leaves it: half of a master, without its snapshot.
    const key = (await readdir(join(under.dir, 'masters')))[0] ?? ''
    await under.server.call('create', { name: `gold-${key}`, sizeBytes: mib(4) })
    await under.end()
    const next = await world({ root: under.root })
    try {
      await using disk = await next.open(await next.store.clone(id(1), next.base, mib(64)))
      const content = Buffer.alloc(8)
      await disk.read(mib(64) - 8, content)
      assert.equal(content.toString(), 'goldgold')
    } finally {
      await next.end()
    }
  } finally {
    await under.close()
  }
})

test('a base that leads to another file is refused: it would be read by whoever runs this', { skip: noQemuImg }, async () => {
  const under = await world()
  try {
    const path = join(under.root, 'overlay.qcow2')
    const argv = ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', under.base.path, path]
    assert.equal(spawnSync('qemu-img', argv).status, 0)
    await assert.rejects(
      under.store.clone(id(1), { path, format: 'qcow2' }, mib(64)),
      (error) => error instanceof Fault && error.code === 'forbidden' && error.message.includes(under.base.path),
    )
    const apart = join(under.root, 'apart.qcow2')
    const data = `data_file=${join(under.root, 'data').replaceAll(',', ',,')}`
    assert.equal(spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', data, apart, '64M']).status, 0)
    await assert.rejects(
      under.store.clone(id(1), { path: apart, format: 'qcow2' }, mib(64)),
      (error) => error instanceof Fault && error.code === 'forbidden',
    )
  } finally {
    await under.close()
  }
})

test('disks of before stay what they are, beside the new ones', { skip: noQemuImg }, async () => {
  const under = await world()
  try {
    const files = qcow2VolumeStore({
      files: await nodeVolumeFiles({ folder: join(under.root, 'files') }),
      runner: nodeCommandRunner(),
    })
    const old = await files.clone(id(1), under.base, mib(64))
    assert.deepEqual(await under.store.get(id(1)), old)
    assert.deepEqual(await under.store.clone(id(1), under.base, mib(64)), old)
    const made = await under.store.clone(id(2), under.base, mib(64))
    assert.deepEqual(await under.store.list(), [old, made])
    await under.store.remove(id(1))
    assert.equal(await files.get(id(1)), null)
  } finally {
    await under.close()
  }
})

test(
  'a lease of its own is in the way of nothing that nobody uses; what is open, or another leases, stays',
  { skip: noQemuImg },
  async () => {
    const under = await world()
    try {
      const { store, server } = under
      const made = await store.clone(id(1), under.base, mib(64))
      await store.snapshots.take({ volume: id(1), snapshot: 'before' })
      const epoch = await store.leases.take(id(1))
      assert.ok(made.source.kind === 'nbd')
      const { socketPath } = made.source
      const exportName = `${id(1)}:${epoch}`
      await server.call('attach', { volume: exportName, socketPath })
      const writer = await connectNbd({ address: { socketPath }, exportName })
      await writer.write(0, Buffer.alloc(4096, 'new'))
      await store.snapshots.take({ volume: id(1), snapshot: 'after' })
      await assert.rejects(store.snapshots.revert({ volume: id(1), snapshot: 'before' }), /a connection uses it/)
      await writer.write(4096, Buffer.alloc(4096, 'new'))
      await writer.close()
      await server.call('detach', { socketPath })
      await store.snapshots.revert({ volume: id(1), snapshot: 'before' })
      assert.equal(await store.leases.held(id(1)), epoch, 'the lease is as it was')
      await assert.rejects(server.call('revert', { volume: id(1), snapshot: 'after' }), /leased by/)
      await assert.rejects(server.call('revert', { volume: id(1), snapshot: 'after', epoch: epoch + 1 }), /is not in force/)
      const clone = await store.snapshots.clone(id(2), { volume: id(1), snapshot: 'after' })
      assert.equal(await store.leases.held(clone.id), null)

      const { epoch: taken } = await server.call('acquireLease', { name: id(1), holder: HOLDER.replace('1', '2'), epoch })
      await assert.rejects(store.snapshots.revert({ volume: id(1), snapshot: 'after' }), /leased by 2/)
      await assert.rejects(store.remove(id(1)), /leased by 2/)
      assert.ok(await store.get(id(1)))
      await server.call('releaseLease', { name: id(1), epoch: taken })
      await store.leases.take(id(1))
      await store.remove(id(1))
      assert.equal(await store.get(id(1)), null)
    } finally {
      await under.close()
    }
  },
)

test("a guest's socket shows its volume alone, to its owner alone, and is gone with it", { skip: noQemuImg }, async () => {
  const under = await world()
  try {
    const { server, store, base } = under
    const [mine, other] = [await store.clone(id(1), base, mib(64)), await store.clone(id(2), base, mib(64))]
    assert.ok(mine.source.kind === 'nbd' && other.source.kind === 'nbd')
    const { socketPath, exportName: volume } = mine.source
    const owner = process.geteuid?.() === 0 ? { uid: 65534, gid: 65534 } : {}
    await server.call('attach', { volume, socketPath, ...owner })
    await server.call('attach', { volume, socketPath, ...owner })
    const { mode, uid } = await stat(socketPath)
    assert.deepEqual([mode & 0o777, uid], [0o600, owner.uid ?? process.geteuid?.()])
    assert.equal((await stat(join(under.dir, 'control.sock'))).mode & 0o777, 0o600)
    assert.deepEqual(
      (await listNbdExports({ socketPath })).map(({ name }) => name),
      [volume],
    )
    await assert.rejects(connectNbd({ address: { socketPath }, exportName: other.source.exportName }))
    await assert.rejects(server.call('attach', { volume: other.source.exportName, socketPath }), /is the socket of/)
    await assert.rejects(server.call('attach', { volume: 'none', socketPath: `${socketPath}2` }), /there is no such volume/)
    const client = await connectNbd({ address: { socketPath }, exportName: volume })
    assert.deepEqual(
      (({ version, attachmentCount, connectionCount }) => [version, attachmentCount, connectionCount])(
        await server.call('hello', {}),
      ),
      ['test', 1, 1],
    )
    await assert.rejects(server.call('stop', {}), /1 volume is attached/)
    await store.remove(id(1))
    await assert.rejects(client.read(0, new Uint8Array(512)))
    assert.deepEqual(await readdir(join(under.root, 'run')), [])
    await server.call('stop', {})
    await server.closed
    assert.equal(await askServer(under.dir), null)
  } finally {
    await under.close()
  }
})

test('what is asked wrongly is refused in words, and the next question is answered', async () => {
  const under = await world()
  try {
    const ask = under.server.call as (command: string, args: unknown) => Promise<unknown> // as somebody else's program may
    await assert.rejects(ask('attach', { volume: 'x' }), /args\.socketPath of attach: got undefined, want a string/)
    await assert.rejects(ask('stop', { force: 'yes' }), /args\.force of stop: got "yes", want a boolean/)
    await assert.rejects(ask('nothing', {}), /command: got "nothing"/)
    assert.equal(((await ask('hello', {})) as { pid: number }).pid, process.pid)
  } finally {
    await under.close()
  }
})

test('a folder with a path too long for a socket is served all the same', async () => {
  const root = await mkdtemp(join(tmpdir(), 'typevisor-long-'))
  const dir = join(root, 'd'.repeat(100))
  try {
    assert.equal(await askServer(dir), null)
    await using folder = await openVolumeFolder({
      dir,
      create: true,
      lock: lockFile,
      clock: realClock(),
      rng: realRng(),
      log: quiet,
    })
    await folder.answer({ version: 'test', stop() {} })
    const server = await askServer(dir)
    assert.equal((await server?.call('hello', {}))?.pid, process.pid)
    server?.close()
  } finally {
    await rm(root, { recursive: true, force: true })
  }
})

test('a file of before, and a seed, are opened by nobody but their guest', { skip: noQemuImg }, async () => {
  const under = await world()
  try {
    await under.store.put(id(1), Uint8Array.of(1))
    await assert.rejects(under.store.open(id(1)), (error: unknown) => error instanceof Fault && error.code === 'unsupported')
  } finally {
    await under.close()
  }
})

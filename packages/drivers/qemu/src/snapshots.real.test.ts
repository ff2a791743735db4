/**
 * Snapshots of a real guest, whose disk is a copy-on-write volume of ours over NBD: what counts goes on after a snapshot and from it after a
 * revert; a file system that was frozen needs no recovery; who is killed in between leaves nothing frozen.
 */
import assert from 'node:assert/strict'
import { mkdir, readdir, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { mib, type Clock } from '@typevisor/base'
import type { DomainId, DomainSpec, SnapshotId, SnapshotName } from '@typevisor/model'
import { lockFile, realClock, realRng } from '@typevisor/runtime-node'
import { stateFile } from '@typevisor/saga'
import { seededRng, simDisk, type SimDisk } from '@typevisor/sim'
import {
  askServer,
  nbdVolumeStore,
  nodeCommandRunner,
  nodeMasterRecords,
  nodeVolumeFiles,
  openServed,
  openVolumeFolder,
  qcow2VolumeStore,
} from '@typevisor/storage'
import { openToolstack, SNAPSHOT_DEFAULTS, type DomainDriver, type SnapshotRequest, type Toolstack } from '@typevisor/toolstack'
import { bench, microImage, noTransfers, silentLog, testClock, testDomain, testId, testIds, type Bench } from './testing.ts'

/** Volumes of a folder that this process serves; `attach` puts a domain's disk where its QEMU looks for it. */
async function volumesIn(t: TestContext, folder: string) {
  const dir = join(folder, 'disks')
  const parts = { clock: realClock(), rng: realRng(), log: silentLog }
  const served = await openVolumeFolder({ dir, create: true, lock: lockFile, ...parts })
  await served.answer({ version: 'test', stop: () => void served.close() })
  const server = await askServer(dir)
  assert.ok(server)
  t.after(async () => {
    server.close()
    await served.close()
  })
  const runner = nodeCommandRunner()
  const files = join(folder, 'files')
  await mkdir(files)
  const socketPathOf = (volume: string) => join(folder, `${volume.slice(-12)}.sock`)
  const volumes = nbdVolumeStore({
    holder: '11111111-2222-4333-8444-555555555555',
    call: server.call,
    files: qcow2VolumeStore({ files: await nodeVolumeFiles({ folder: files }), runner }),
    masters: await nodeMasterRecords(join(dir, 'masters')),
    runner,
    socketPathOf,
    connect: (exportName) => openServed(dir, exportName),
    clock: parts.clock,
    log: silentLog,
  })
  const attach = async (id: DomainId): Promise<void> => {
    const volume = `${id}.root`
    await server.call('attach', { volume, socketPath: socketPathOf(volume) })
  }
  return { volumes, attach }
}

interface Host {
  readonly b: Bench
  readonly saves: string
  attach(id: DomainId): Promise<void>
  specOf(name: string): DomainSpec
  open(driver?: DomainDriver, disk?: SimDisk): Promise<Toolstack>
  /** What this process has opened so far is dead: it waits for nothing any more. */
  kill(): SimDisk
}

async function host(t: TestContext): Promise<Host> {
  const b = await bench(t)
  const image = await microImage()
  const { volumes, attach } = await volumesIn(t, b.folder)
  const saves = join(b.folder, 'saves')
  await mkdir(saves)
  const disk = simDisk({ rng: seededRng(1) })
  const never = new Promise<never>(() => {})
  let life = 0
  const mortalClock = (): Clock => {
    const born = life
    return { ...testClock, sleep: (...call) => (born < life ? never : testClock.sleep(...call)) }
  }
  const pathOf = (id: DomainId, save: string) => join(saves, `${id}.${save}.save`)
  return {
    b,
    kill() {
      life += 1
      return disk.crash()
    },
    attach,
    saves,
    specOf: (name) => ({
      ...testDomain({ name }).spec,
      memoryBytes: mib(192),
      image: image.name,
      rootDiskBytes: image.rootDisk.virtualBytes,
    }),
    open: (driver = b.driver, from = disk, clock = mortalClock()) =>
      openToolstack({
        driver,
        volumes,
        images: { get: async () => image },
        state: stateFile({ disk: from, name: 'toolstack.journal', clock, log: silentLog }),
        saves: {
          pathOf,
          async keepOnly(id, paths) {
            for (const name of await readdir(saves))
              if (name.startsWith(id) && !paths.includes(join(saves, name))) await rm(join(saves, name))
          },
          async freeBytes() {
            const { bavail, bsize } = await statfs(saves)
            return bavail * bsize
          },
          ...noTransfers,
        },
        clock,
        ids: testIds,
        log: silentLog,
        owner: 'test',
      }),
  }
}

const command = () => ({ commandId: testId() })
const requestOf = (name: string, more: Partial<SnapshotRequest> = {}): SnapshotRequest => ({
  snapshot: testId() as SnapshotId,
  name: name as SnapshotName,
  ...SNAPSHOT_DEFAULTS,
  timeoutMs: 60_000,
  ...more,
})

/** What a shell line in the guest prints. */
async function sh(toolstack: Toolstack, id: DomainId, line: string): Promise<string> {
  const { exitCode, stdout, stderr } = await toolstack.exec(id, { argv: ['/bin/sh', '-c', line], timeoutMs: 60_000 })
  assert.equal(exitCode, 0, `${line}: ${new TextDecoder().decode(stderr)}`)
  return new TextDecoder().decode(stdout).trim()
}

async function untilBooted(toolstack: Toolstack, id: DomainId): Promise<void> {
  const end = Date.now() + 120_000
  while (true) {
    try {
      await sh(toolstack, id, 'true')
      return
    } catch (error) {
      if (Date.now() > end) throw error
      await sleep(200)
    }
  }
}

async function booted(t: TestContext): Promise<Host & { toolstack: Toolstack; id: DomainId }> {
  const h = await host(t)
  const toolstack = await h.open()
  const id = testId() as DomainId
  await toolstack.define(id, h.specOf('counter'), command())
  await h.attach(id)
  await toolstack.carryOut('start', id, command())
  await untilBooted(toolstack, id)
  return { ...h, toolstack, id }
}

const writeDisk = (text: string) => `echo ${text} >/root/word && sync`
/** From the disk, not from what the guest remembers of it. */
const READ_DISK = 'echo 3 >/proc/sys/vm/drop_caches; cat /root/word'

test('what counts in a guest goes on after a snapshot, and from the snapshot after a revert; the disk is of the same moment', async (t) => {
  const { toolstack, id, saves } = await booted(t)
  await sh(toolstack, id, 'i=0; (while true; do i=$((i + 1)); echo $i >/run/n; usleep 20000; done) >/dev/null 2>&1 &')
  const count = async (): Promise<number> => {
    const said = await sh(toolstack, id, 'while ! [ -s /run/n ]; do usleep 1000; done; cat /run/n')
    return Number(said)
  }
  const untilCounted = async (least: number): Promise<number> => {
    while (true) {
      const now = await count()
      if (now >= least) return now
      await sleep(50)
    }
  }
  await sh(toolstack, id, writeDisk('then'))
  const before = await untilCounted(5)
  const request = requestOf('memory', { memory: true })
  const { state, snapshots } = await toolstack.snapshot(id, request, command())
  assert.equal(state.kind, 'running')
  assert.ok((snapshots[0]?.memory?.sizeBytes ?? 0) > mib(1))
  const after = await untilCounted(before + 1)
  await sh(toolstack, id, writeDisk('now'))
  for (let again = 0; again < 2; again += 1) {
    const far = await untilCounted(after + 300)
    assert.equal((await toolstack.revert(id, request.snapshot, command())).state.kind, 'running')
    const back = await count()
    assert.ok(back >= before && back < far - 100, `counted ${before} before, ${far} at the revert, ${back} after it`)
    await untilCounted(back + 1)
    assert.equal(await sh(toolstack, id, READ_DISK), 'then')
    await sh(toolstack, id, writeDisk('now'))
  }
  await toolstack.removeSnapshot(id, request.snapshot, command())
  assert.deepEqual(await readdir(saves), [])
  await toolstack.carryOut('destroy', id, command())
  await toolstack.close()
})

const RECOVERED = 'dmesg | grep -c "recovery complete" || true'

test('disks of a guest that froze need no recovery, those of one that did not do; a clone boots with a name of its own', async (t) => {
  const { toolstack, id, specOf, attach } = await booted(t)
  await sh(toolstack, id, writeDisk('then'))
  const [quiet, torn] = [requestOf('quiet', { quiesce: 'must' }), requestOf('torn', { quiesce: 'no' })]
  assert.equal((await toolstack.snapshot(id, quiet, command())).snapshots[0]?.quiesced, true)
  await sh(toolstack, id, writeDisk('now'))
  assert.equal((await toolstack.snapshot(id, torn, command())).snapshots[1]?.quiesced, false)

  const clone = testId() as DomainId
  await toolstack.clone(
    clone,
    { ...specOf('other'), cloudInit: { ...specOf('other').cloudInit, hostname: 'other' } },
    { domain: id, snapshot: quiet.snapshot },
    command(),
  )
  await attach(clone)
  await toolstack.carryOut('start', clone, command())
  await untilBooted(toolstack, clone)
  assert.equal(await sh(toolstack, clone, 'cat /root/word'), 'then')
  assert.deepEqual([await sh(toolstack, clone, 'hostname'), await sh(toolstack, id, 'hostname')], ['other', 'counter'])
  await sh(toolstack, clone, writeDisk('clone'))
  assert.equal(await sh(toolstack, id, READ_DISK), 'now', 'the disks are two')
  await toolstack.carryOut('destroy', clone, command())

  for (const [request, word, recovered] of [
    [quiet, 'then', '0'],
    [torn, 'now', '1'],
  ] as const) {
    const { state } = await toolstack.revert(id, request.snapshot, { ...command(), start: true })
    assert.equal(state.kind, 'running')
    await untilBooted(toolstack, id)
    assert.deepEqual([await sh(toolstack, id, 'cat /root/word'), await sh(toolstack, id, RECOVERED)], [word, recovered])
  }
  await toolstack.carryOut('destroy', id, command())
  await toolstack.close()
})

test('who is killed when the memory is written and the disks are not yet taken: the next one takes them, and the guest goes on', async (t) => {
  const { b, kill, toolstack: first, id, open } = await booted(t)
  await sh(first, id, `${writeDisk('then')} && echo 7 >/run/kept`)
  const written = Promise.withResolvers<void>()
  const never = new Promise<never>(() => {})
  const { snapshotMemory } = b.driver
  b.driver.snapshotMemory = async (...call) => {
    await snapshotMemory.apply(b.driver, call)
    written.resolve()
    return never
  }
  const request = requestOf('cut', { memory: true })
  first.snapshot(id, request, { commandId: 'cut' }).catch(() => {})
  await written.promise
  const left = kill()
  await b.driver.close()
  const second = await open(b.open(), left)
  const { state, snapshots } = await second.snapshot(id, request, { commandId: 'cut' })
  assert.deepEqual([state.kind, snapshots.length], ['running', 1])
  await sh(second, id, `${writeDisk('now')} && echo 8 >/run/kept`)
  await second.revert(id, request.snapshot, command())
  assert.deepEqual([await sh(second, id, READ_DISK), await sh(second, id, 'cat /run/kept')], ['then', '7'])
  await second.carryOut('destroy', id, command())
  await second.close()
})

test('who is killed while the guest is frozen leaves it frozen no longer than until the next one comes', async (t) => {
  const { b, kill, toolstack: first, id, open } = await booted(t)
  const frozen = Promise.withResolvers<void>()
  const never = new Promise<never>(() => {})
  const { freeze, thaw } = b.driver
  b.driver.freeze = async (...call) => {
    await freeze.apply(b.driver, call)
    b.driver.thaw = () => never
    frozen.resolve()
    await never
  }
  const request = requestOf('cut')
  first.snapshot(id, request, { commandId: 'cut' }).catch(() => {})
  await frozen.promise
  await assert.rejects(sh(first, id, 'true'), { code: 'failed' })
  const left = kill()
  b.driver.thaw = thaw
  await b.driver.close()
  const second = await open(b.open(), left)
  const { snapshots } = await second.snapshot(id, request, { commandId: 'cut' })
  assert.deepEqual(
    snapshots.map(({ name, quiesced }) => [name, quiesced]),
    [['cut', true]],
  )
  await sh(second, id, writeDisk('thawed'))
  await second.carryOut('destroy', id, command())
  await second.close()
})

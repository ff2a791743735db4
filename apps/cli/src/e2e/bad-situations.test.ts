/** What goes wrong on real machines: each is a clear word, and nothing is lost. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { mkdir, open, readdir, readlink, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from '@typevisor/api/client'
import { isErrno } from '@typevisor/runtime-node'
import { askServer } from '@typevisor/storage'
import { endAll, guestsOf, machine, run, runTagOf, typevisor, until, type Life, type Machine } from './child.ts'
import { temporaryFolder } from './harness.ts'

const MIB = 1024 * 1024
const canMount = process.geteuid?.() === 0
const buildMicro = async (client: Client) => {
  const { operation } = await client.call('image.build', { params: { image: 'micro' }, body: {}, query: { wait: 60 } })
  assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
}
const create = (client: Client, name: string, body: object = {}) =>
  client.call('instance.create', { body: { name, memoryBytes: 160 * MIB, ...body }, query: { wait: 60 } })
type Verb = 'start' | 'pause' | 'unpause' | 'save' | 'restore' | 'poweroff' | 'destroy'
const verb = (client: Client, name: Verb, instance: string, wait = 60) =>
  client.call(`instance.${name}`, { params: { instance }, query: { wait } })

test('a port in use: says which, and leaves no process behind', async () => {
  const holder = createServer().listen(0, '127.0.0.1')
  await once(holder, 'listening')
  const { port } = holder.address() as AddressInfo
  const dataDir = await temporaryFolder()
  try {
    const { code, said } = await run(['start', '--port', String(port), '--data', dataDir, '--empty', '--driver', 'sim'])
    assert.notEqual(code, 0)
    assert.match(said, new RegExp(`port ${port}|:${port}`))
    assert.match(said, /in use|taken/)
    assert.doesNotMatch(said, /^\s+at /m, 'no stack')
    assert.equal(existsSync(join(dataDir, 'postgresql/pgdata/postmaster.pid')), false, 'its database is stopped')
  } finally {
    holder.close()
    await endAll(dataDir)
    await rm(dataDir, { recursive: true, force: true })
  }
})

test('two servers on one data directory: the second names the process of the first, which goes on', async () => {
  await using host = await machine()
  const { child, client } = await host.start('--driver', 'sim')
  const { code, said } = await run(['start', '--port', '0', '--data', host.dataDir, '--empty', '--driver', 'sim'])
  assert.equal(code, 4)
  assert.match(said, new RegExp(`${host.dataDir} is in use by process ${child.pid}`))
  assert.equal((await create(client, 'goes-on')).instance?.state.kind, 'running')
  await child.kill('SIGTERM')
})

test('a data directory that cannot be written: says which and why', async () => {
  const folder = await temporaryFolder()
  try {
    await writeFile(join(folder, 'file'), '')
    const cases: [string, RegExp][] = [[join(folder, 'file/below'), /ENOTDIR|not a directory/]]
    if (canMount) {
      await mkdir(join(folder, 'read-only'))
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'ro,size=1m', 'tmpfs', join(folder, 'read-only')])
      cases.push([join(folder, 'read-only'), /EROFS|read-only/])
    }
    for (const [dataDir, why] of cases) {
      const { code, said } = await run(['start', '--port', '0', '--data', dataDir, '--empty', '--driver', 'sim'])
      assert.notEqual(code, 0)
      assert.ok(said.includes(dataDir), said)
      assert.match(said, why)
      assert.doesNotMatch(said, /^\s+at /m, 'no stack')
    }
  } finally {
    if (canMount) execFileSync('umount', [join(folder, 'read-only')])
    await rm(folder, { recursive: true, force: true })
  }
})

test('a damaged journal: the agent says where, changes nothing, and starts again once the file is put back', async () => {
  await using host = await machine()
  const first = await host.start('--driver', 'sim')
  for (let n = 0; n < 5; n += 1) await create(first.client, `kept-${n}`)
  await first.child.kill('SIGTERM')
  const path = join(host.dataDir, 'agent/state/agent.journal')
  const good = readFileSync(path)
  const bad = Buffer.from(good)
  bad.fill(0xff, Math.floor(good.length / 2), Math.floor(good.length / 2) + 8)
  await writeFile(path, bad)
  const { code, said } = await run(['start', '--port', '0', '--data', host.dataDir, '--empty', '--driver', 'sim'])
  assert.equal(code, 1)
  assert.match(said, /agent\.journal: damaged at byte \d+/)
  assert.doesNotMatch(said, /^\s+at /m, 'no stack')
  assert.ok(readFileSync(path).equals(bad), 'it is left as it was found')
  await writeFile(path, good)
  const again = await host.start('--driver', 'sim')
  assert.equal((await again.client.call('instance.list', {})).total, 5)
  // A tail that was torn by a power cut is no damage.
  await again.child.kill('SIGTERM')
  const handle = await open(path, 'a')
  await handle.write(Buffer.from([1, 2, 3]))
  await handle.close()
  const last = await host.start('--driver', 'sim')
  assert.equal((await last.client.call('instance.list', {})).total, 5)
  await last.child.kill('SIGTERM')
})

test('PostgreSQL killed under the server: it is started again, requests meanwhile are told to come back, and no operation is lost', async () => {
  await using host = await machine()
  const { child, client } = await host.start('--driver', 'sim')
  await create(client, 'before')
  const pidFile = join(host.dataDir, 'postgresql/pgdata/postmaster.pid')
  const postmaster = () => (existsSync(pidFile) ? Number(readFileSync(pidFile, 'utf8').split('\n')[0]) : 0)
  for (let round = 0; round < 3; round += 1) {
    const killed = postmaster()
    const accepted: string[] = []
    const refused: string[] = []
    const asking = Promise.all(
      Array.from({ length: 10 }, (_, n) =>
        client.call('instance.create', { body: { name: `r${round}-${n}` } }).then(
          ({ operation }) => void accepted.push(operation.id),
          (error: unknown) => void refused.push((error as { code?: string }).code ?? String(error)),
        ),
      ),
    )
    await sleep(round * 15)
    process.kill(killed, 'SIGKILL')
    await asking
    await until('it answers again', () =>
      client.call('instance.list', {}).then(
        () => postmaster() !== killed && postmaster() !== 0,
        () => false,
      ),
    )
    for (const id of accepted) {
      const operation = await until('the operation ends', async () => {
        const found = await client.call('operation.get', { params: { operation: id } })
        return found.state === 'running' || found.state === 'undoing' ? null : found
      })
      assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
    }
    assert.ok(
      refused.every((code) => ['unavailable', 'busy', 'conflict'].includes(code)),
      refused.join(' '),
    )
  }
  await until('the host is back', async () => (await client.call('host.list', {})).items.every((each) => each.connected))
  // What happens on the host is taken in again.
  const { instance } = await verb(client, 'pause', 'before')
  assert.equal(instance?.state.kind, 'paused')
  const { items } = await client.call('event.list', { query: { resource: instance.id, limit: 100 } })
  assert.ok(items.some((event) => event.data['to'] === 'paused'))
  assert.equal(child.said().includes('    at '), false)
  await child.kill('SIGTERM')
  assert.equal(existsSync(pidFile), false, 'the one that was started again is stopped as well')
})

describe('with guests under QEMU', () => {
  let host: Machine
  let life: Life
  let client: Client
  let agentDir: string
  before(async () => {
    host = await machine()
    agentDir = join(host.dataDir, 'agent')
    life = await host.start()
    client = life.client
    await buildMicro(client)
  })
  after(() => host[Symbol.asyncDispose]())

  /** It is destroyed at the end. */
  const stoppedInstance = async (name: string) => {
    const { instance } = await create(client, name, { start: false })
    return { id: String(instance?.id), [Symbol.asyncDispose]: async () => void (await verb(client, 'destroy', name)) }
  }

  test('an image that is not there is refused by name, and nothing is left', async () => {
    await assert.rejects(create(client, 'no-image', { image: 'nothing' }), /image nothing/)
    assert.equal((await client.call('instance.list', { query: { search: 'no-image' } })).total, 0)
    assert.deepEqual(await readdir(join(agentDir, 'volumes')), [])
  })

  test('a disk that is not there is refused before QEMU starts, and nothing is left', async () => {
    await using bad = await stoppedInstance('no-disk')
    const server = await askServer(join(agentDir, 'disks'))
    await server?.call('remove', { name: `${bad.id}.root` })
    server?.close()
    const failed = await verb(client, 'start', 'no-disk')
    assert.equal(failed.operation.state, 'undone')
    assert.match(failed.operation.fault?.message ?? '', new RegExp(`lease ${bad.id}.root: there is no such volume`))
    assert.deepEqual([failed.instance?.state.kind, failed.instance?.operation], ['stopped', null])
    assert.equal(guestsOf(agentDir).size, 0)
  })

  test('QEMU that dies at start: its last words are in the error of the API and of the command line, nothing is left, and it starts once it is mended', async () => {
    await using bad = await stoppedInstance('bad-kernel')
    const folder = join(agentDir, 'images/micro', await readlink(join(agentDir, 'images/micro/current')))
    const good = readFileSync(join(folder, 'kernel'))
    await writeFile(join(folder, 'kernel'), 'no kernel at all'.padEnd(4096, '!'))
    const lastWords = /start bad-kernel: QEMU ended at once: (?:.*\n)*.*qemu(?:-system-x86_64)?: .*kernel/
    const failed = await verb(client, 'start', 'bad-kernel')
    assert.equal(failed.operation.state, 'undone')
    assert.equal(failed.operation.fault?.code, 'failed')
    assert.match(failed.operation.fault?.message ?? '', lastWords)
    const later = await client.call('operation.get', { params: { operation: failed.operation.id } })
    assert.deepEqual(later.fault, failed.operation.fault, 'it is kept')
    assert.deepEqual([failed.instance?.state.kind, failed.instance?.operation], ['stopped', null])
    const { code, said } = await run(['instance', 'start', 'bad-kernel'], { TYPEVISOR_DATA: host.dataDir })
    assert.equal(code, 1)
    assert.match(said, lastWords)
    assert.equal(guestsOf(agentDir).size, 0)
    if (process.geteuid?.() === 0) assert.deepEqual(await readdir(join('/run/typevisor', runTagOf(agentDir))), ['nbd'])

    await writeFile(join(folder, 'kernel'), good)
    const { operation } = await verb(client, 'start', 'bad-kernel')
    assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
    assert.equal(guestsOf(agentDir).has(bad.id), true)
  })

  test('a QEMU that hangs during an operation: the operation ends with what did not answer, others go on, and its state follows once it answers', async () => {
    const [hung, well] = [await create(client, 'hung'), await create(client, 'well')]
    const pid = guestsOf(agentDir).get(String(hung.instance?.id))
    assert.ok(pid)
    process.kill(pid, 'SIGSTOP')
    try {
      const asked = await verb(client, 'pause', 'hung', 0)
      assert.equal((await verb(client, 'pause', 'well')).instance?.state.kind, 'paused')
      const { operation } = {
        operation: await until(
          'it ends',
          async () => {
            const found = await client.call('operation.get', { params: { operation: asked.operation.id }, query: { wait: 10 } })
            return found.state === 'running' ? null : found
          },
          120_000,
        ),
      }
      assert.equal(operation.state, 'undone')
      assert.equal(operation.fault?.code, 'timeout')
      assert.match(operation.fault?.message ?? '', /QMP/)
      assert.equal((await client.call('instance.get', { params: { instance: 'hung' } })).operation, null)
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    // What was asked of it is carried out late or not at all; the row says which.
    const follows = await until('the row is what the guest is', async () => {
      const { state } = await client.call('instance.get', { params: { instance: 'hung' } })
      const other = state.kind === 'running' ? 'pause' : 'unpause'
      const { operation } = await verb(client, other, 'hung')
      return operation.state === 'done'
    })
    assert.ok(follows)
    process.kill(pid, 'SIGSTOP')
    assert.equal((await verb(client, 'destroy', 'hung')).operation.state, 'done', 'one that hangs can be destroyed')
    await verb(client, 'destroy', 'well')
    assert.equal(guestsOf(agentDir).size, 0)
    assert.ok(well.instance)
  })

  test('a guest whose QEMU is killed is crashed with that cause, also when nobody watched', async () => {
    const [seen, unseen] = [await create(client, 'seen'), await create(client, 'unseen')]
    process.kill(guestsOf(agentDir).get(String(seen.instance?.id)) ?? 0, 'SIGKILL')
    await until(
      'it is told',
      async () => (await client.call('instance.get', { params: { instance: 'seen' } })).state.kind === 'crashed',
    )
    await life.child.kill('SIGKILL')
    process.kill(guestsOf(agentDir).get(String(unseen.instance?.id)) ?? 0, 'SIGKILL')
    life = await host.start()
    client = life.client
    const crashes = async (id: string) =>
      (await client.call('event.list', { query: { resource: id, limit: 100 } })).items.filter(
        (event) => event.data['to'] === 'crashed',
      )
    const [event] = await until('it is worked out', async () => {
      const found = await crashes(String(unseen.instance?.id))
      return found.length > 0 ? found : null
    })
    assert.deepEqual([event?.data['cause'], event?.data['reconstructed']], ['unknown', true])
    assert.equal((await crashes(String(seen.instance?.id)))[0]?.data['reconstructed'], false)
    for (const name of ['seen', 'unseen']) await verb(client, 'destroy', name)
  })
})

test(
  'no space: volumes, saves and the journal on a full file system fail with that word, nothing is lost, and all goes on with room',
  { skip: canMount ? false : 'mounting a small file system wants root' },
  async () => {
    await using host = await machine()
    const agentDir = join(host.dataDir, 'agent')
    await mkdir(agentDir)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=700m,mode=711', 'tmpfs', agentDir])
    try {
      const { client, child } = await host.start()
      await buildMicro(client)
      const { instance } = await create(client, 'guest')
      assert.equal(instance?.state.kind, 'running')
      const pid = guestsOf(agentDir).get(instance.id)
      await until('it has booted', () =>
        client
          .call('instance.log', { params: { instance: 'guest' } })
          .then((log) => Buffer.from(log.contentBase64, 'base64').toString().includes('ready')),
      )
      const fill = async (keepBytes: number): Promise<void> => {
        const free = Number(execFileSync('df', ['-B1', '--output=avail', agentDir]).toString().split('\n')[1])
        const handle = await open(join(agentDir, 'filler'), 'a')
        const piece = Buffer.alloc(64 * 1024, 1)
        try {
          for (let left = free - keepBytes; left > 0; left -= piece.length)
            await handle.write(piece, 0, Math.min(piece.length, left))
        } catch (error) {
          // Others write too: it is full before all was counted.
          if (!isErrno(error, 'ENOSPC')) throw error
        } finally {
          await handle.close()
        }
      }
      // Room for records, none for a save of the guest's memory.
      await fill(2 * MIB)
      const saved = await verb(client, 'save', 'guest')
      assert.equal(saved.operation.state, 'undone')
      assert.equal(saved.operation.fault?.code, 'exhausted', JSON.stringify(saved.operation.fault))
      assert.equal(saved.instance?.state.kind, 'running', 'the guest goes on')
      assert.equal(guestsOf(agentDir).get(instance.id), pid)
      assert.deepEqual(await readdir(join(agentDir, 'saves')), [])

      // No byte: a volume cannot be made, and the journal waits for room.
      await fill(0)
      const asked = await client.call('instance.create', { body: { name: 'no-room', memoryBytes: 160 * MIB } })
      await sleep(1500)
      await rm(join(agentDir, 'filler'))
      const ended = await client.call('operation.get', { params: { operation: asked.operation.id }, query: { wait: 60 } })
      assert.ok(ended.state === 'done' || (ended.state === 'undone' && ended.fault?.code === 'exhausted'), JSON.stringify(ended))
      await verb(client, 'destroy', 'no-room')
      assert.equal((await verb(client, 'save', 'guest')).instance?.state.kind, 'saved')
      await verb(client, 'destroy', 'guest')
      assert.deepEqual(await readdir(join(agentDir, 'volumes')), [])
      await child.kill('SIGTERM')
    } finally {
      await endAll(host.dataDir)
      execFileSync('umount', [agentDir])
    }
  },
)

test(
  'no space for PostgreSQL: what cannot be written is refused as such, what was is kept, and all goes on with room',
  { skip: canMount ? false : 'mounting a small file system wants root' },
  async () => {
    await using host = await machine()
    const folder = join(host.dataDir, 'postgresql')
    await mkdir(folder)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=96m,mode=711', 'tmpfs', folder])
    let child: ReturnType<typeof typevisor> | undefined
    try {
      const life = await host.start('--driver', 'sim')
      child = life.child
      const { client } = life
      await create(client, 'kept')
      const handle = await open(join(folder, 'filler'), 'a')
      await handle.write(Buffer.alloc(MIB)).catch(() => {})
      try {
        for (;;) await handle.write(Buffer.alloc(64 * 1024))
      } catch {
        // It is full.
      }
      await handle.close()
      const faults = new Set<string>()
      // Until the log of the database finds no room for its next piece.
      for (let n = 0; n < 100 && !faults.has('exhausted') && !faults.has('unavailable'); n += 1) {
        const userData = `#cloud-config\n${randomBytes(11_000).toString('base64')}`
        await Promise.allSettled(
          Array.from({ length: 10 }, (_, at) =>
            client
              .call('instance.create', { body: { name: `full-${n}-${at}`, start: false, userData } })
              .catch((error: unknown) => faults.add((error as { code?: string }).code ?? String(error))),
          ),
        )
      }
      assert.ok(faults.size > 0, 'it was full')
      assert.ok(
        [...faults].every((code) => code === 'exhausted' || code === 'unavailable'),
        [...faults].join(' '),
      )
      await rm(join(folder, 'filler'))
      await until('it writes again', () =>
        create(client, 'after').then(
          ({ operation }) => operation.state === 'done',
          () => false,
        ),
      )
      assert.equal((await client.call('instance.get', { params: { instance: 'kept' } })).state.kind, 'running')
      await until(
        'every operation ends',
        async () => (await client.call('operation.list', { query: { unfinished: 'true' } })).items.length === 0,
      )
      await child.kill('SIGTERM')
    } finally {
      await child?.kill('SIGKILL')
      await endAll(host.dataDir)
      execFileSync('umount', [folder])
    }
  },
)

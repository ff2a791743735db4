/** The volume server as a process, kept by one agent after the other. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, mib, millis } from '@typevisor/base'
import { connectNbd, type NbdClient } from '@typevisor/nbd'
import { lockHolder, processActivity, processIdentity, realClock, spawnDetached, waitForExit } from '@typevisor/runtime-node'
import { memoryLog } from '@typevisor/sim'
import { keepVolumeServer, type VolumeKeeper, type VolumeServerChange } from './keeper.ts'
import type { PulseLimits } from './pulse.ts'

const HOLDER = '11111111-2222-4333-8444-555555555555'

async function world(t: TestContext) {
  const root = await mkdtemp(join(tmpdir(), 'tv-keeper-'))
  const dir = join(root, 'disks')
  const keepers: VolumeKeeper[] = []
  const serversOf = (): number[] =>
    readdirSync('/proc').flatMap((name) => {
      try {
        const words = readFileSync(`/proc/${Number(name)}/cmdline`, 'utf8').split('\0')
        return words.includes(dir) && words.some((word) => word.endsWith('process.ts')) ? [Number(name)] : []
      } catch {
        return []
      }
    })
  const end = async (pid: number, signal: NodeJS.Signals): Promise<void> => {
    const identity = processIdentity(pid)
    if (!identity) return
    process.kill(pid, signal)
    await waitForExit(identity)
  }
  t.after(async () => {
    await Promise.all(keepers.map((keeper) => keeper.close().catch(() => {})))
    for (const pid of serversOf()) await end(pid, 'SIGKILL')
    await rm(root, { recursive: true, force: true })
  })
  const log = memoryLog()
  const changes: VolumeServerChange[] = []
  return {
    root,
    dir,
    log,
    changes,
    /** Each as `serving started` or `away ended SIGKILL`. */
    told: () => changes.map((change) => [change.to, change.cause, ...('detail' in change ? [change.detail] : [])].join(' ')),
    serversOf,
    end,
    keep(version = '1', pulse?: PulseLimits) {
      const watcher = { changed: (change: VolumeServerChange) => void changes.push(change), heard() {} }
      const options = { dir, version, clock: realClock(), log, holder: HOLDER, owner: null, watcher }
      const keeper = keepVolumeServer(pulse ? { ...options, pulse } : options)
      keepers.push(keeper)
      return keeper
    },
  }
}

const pidOf = async (keeper: VolumeKeeper): Promise<number> => (await keeper.call('hello', {})).pid

/** As QEMU does: again and again until somebody answers. */
async function reconnect(socketPath: string, exportName: string): Promise<NbdClient> {
  for (let tries = 0; tries < 1000; tries += 1) {
    const client = await connectNbd({ address: { socketPath }, exportName }).catch(() => null)
    if (client) return client
    await sleep(20)
  }
  throw new Error(`nobody answers at ${socketPath}`)
}
const isRefused = (error: unknown): boolean => error instanceof Fault && error.code === 'forbidden'
const block = (byte: number): Uint8Array => new Uint8Array(4096).fill(byte)
async function byteAt(client: NbdClient, offset: number): Promise<number | undefined> {
  const content = new Uint8Array(4096)
  await client.read(offset, content)
  return content[0]
}

test('one that is killed is started again at once, serves what was attached, and has all that was acknowledged', async (t) => {
  const { keep, root, end, serversOf, told } = await world(t)
  const keeper = keep()
  const first = await pidOf(keeper)
  assert.notEqual(first, process.pid)
  await keeper.call('create', { name: 'web', sizeBytes: mib(64) })
  const socketPath = join(root, 'web.sock')
  await keeper.attach('web', socketPath)
  const client = await connectNbd({ address: { socketPath }, exportName: 'web' })
  for (let index = 0; index < 3; index += 1) {
    const now = index === 0 ? client : await reconnect(socketPath, 'web')
    await now.write(index * 4096, block(index + 1))
    const pid = await pidOf(keeper)
    await end(pid, 'SIGKILL')
    await now.close().catch(() => {})
  }
  await using last = await reconnect(socketPath, 'web')
  assert.deepEqual(await Promise.all([0, 1, 2].map((index) => byteAt(last, index * 4096))), [1, 2, 3])
  const pid = await pidOf(keeper)
  assert.notEqual(pid, first)
  assert.deepEqual(serversOf(), [pid])
  const killed = ['away ended SIGKILL', 'serving started']
  assert.deepEqual(told(), ['serving started', ...killed, ...killed, ...killed])
})

/** Quick enough for a test, and with room for a server that is only slow. */
const QUICK: PulseLimits = { interval: millis(100), answerLimit: millis(500), unansweredMax: 3 }

test('one that hangs is killed, and the next one serves what was attached and has all that was acknowledged', async (t) => {
  const { keep, root, serversOf, told, log } = await world(t)
  const keeper = keep('1', QUICK)
  const hung = await pidOf(keeper)
  await keeper.call('create', { name: 'web', sizeBytes: mib(64) })
  const socketPath = join(root, 'web.sock')
  await keeper.attach('web', socketPath)
  const client = await connectNbd({ address: { socketPath }, exportName: 'web' })
  await client.write(4096, block(5))
  process.kill(hung, 'SIGSTOP')
  // Whoever asks meanwhile gets the next one's answer, or hears that this one is gone.
  await assert.rejects(keeper.call('list', {}), /went away/)
  await using again = await reconnect(socketPath, 'web')
  assert.equal(await byteAt(again, 4096), 5)
  await client.close().catch(() => {})
  const pid = await pidOf(keeper)
  assert.notEqual(pid, hung)
  assert.deepEqual(serversOf(), [pid])
  assert.deepEqual(told(), [
    'serving started',
    `away hung process ${hung} did not answer for 1.5 s and was killed`,
    'serving started',
  ])
  assert.ok(log.has('volumes.server_hangs'))
})

test('one that hung before the agent came is told by who holds its lock, and replaced', async (t) => {
  const { keep, root, serversOf, told } = await world(t)
  const before = keep()
  const hung = await pidOf(before)
  await before.call('create', { name: 'web', sizeBytes: mib(64) })
  const socketPath = join(root, 'web.sock')
  await before.attach('web', socketPath)
  await before.close()
  process.kill(hung, 'SIGSTOP')
  const next = keep('1', QUICK)
  assert.deepEqual(
    (await next.call('list', {})).map(({ name }) => name),
    ['web'],
  )
  assert.deepEqual(serversOf(), [await pidOf(next)])
  assert.deepEqual(told(), [
    'serving started',
    `away hung process ${hung} did not answer for 1.5 s and was killed`,
    'serving started',
  ])
})

/** The first server that is there, as soon as it is. */
async function firstOf(serversOf: () => number[]): Promise<number> {
  for (let tries = 0; tries < 5000; tries += 1) {
    const [pid] = serversOf()
    if (pid !== undefined) return pid
    await sleep(2)
  }
  throw new Error('no server came')
}

test('one that hangs while it starts is killed, and another is started', async (t) => {
  const { keep, dir, serversOf, told, log } = await world(t)
  const keeper = keep('1', QUICK)
  const hung = await firstOf(serversOf)
  process.kill(hung, 'SIGSTOP')
  assert.equal(existsSync(join(dir, 'control.sock')), false)
  const pid = await pidOf(keeper)
  assert.notEqual(pid, hung)
  assert.deepEqual(serversOf(), [pid])
  assert.deepEqual(told(), [`away hung process ${hung} did nothing while it started for 1.5 s and was killed`, 'serving started'])
  assert.ok(log.has('volumes.server_hangs'))
})

test('one that was starting when the agent died is waited for by the next, and killed when it hangs', async (t) => {
  const { keep, dir, serversOf, told } = await world(t)
  const first = keep()
  await first.call('create', { name: 'web', sizeBytes: mib(64) })
  await first.close()
  const program = join(import.meta.dirname, 'process.ts')
  const { pid: hung } = await spawnDetached({ argv: [process.execPath, program, '--dir', dir, '--version', '1'] })
  while (lockHolder(join(dir, 'lock'))?.pid !== hung) await sleep(1)
  process.kill(hung, 'SIGSTOP')
  const next = keep('1', QUICK)
  assert.deepEqual(
    (await next.call('list', {})).map(({ name }) => name),
    ['web'],
  )
  assert.deepEqual(serversOf(), [await pidOf(next)])
  assert.match(
    told()[1] ?? '',
    new RegExp(`^away hung process ${hung} did (nothing while it started|not answer) for 1.5 s and was killed$`),
  )
  assert.deepEqual(told().slice(2), ['serving started'])
})

test('one that starts slowly, and lives, is let be', async (t) => {
  const { keep, serversOf, told } = await world(t)
  const keeper = keep('1', QUICK)
  const slow = await firstOf(serversOf)
  const identity = processIdentity(slow)
  assert.ok(identity)
  const begin = performance.now()
  // For longer than silence may last it does next to nothing in each half second.
  while (performance.now() - begin < 4000) {
    process.kill(slow, 'SIGSTOP')
    await sleep(500)
    const before = processActivity(identity)
    assert.notEqual(before, null, 'it was killed')
    process.kill(slow, 'SIGCONT')
    while (processActivity(identity) === before) await sleep(1)
  }
  assert.equal(await pidOf(keeper), slow)
  assert.deepEqual(told(), ['serving started'])
})

test('it is left to its guests, found again by the next agent, and stopped by the one that leaves it without any', async (t) => {
  const { keep, root, dir, serversOf } = await world(t)
  const before = keep()
  const pid = await pidOf(before)
  await before.call('create', { name: 'web', sizeBytes: mib(64) })
  const socketPath = join(root, 'web.sock')
  await before.attach('web', socketPath)
  await using client = await connectNbd({ address: { socketPath }, exportName: 'web' })
  await before.close()
  await client.write(0, block(7))
  assert.deepEqual(serversOf(), [pid])
  // A session of its own: no signal of our terminal reaches it.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  assert.equal(Number(fields[3]), pid)

  const next = keep()
  assert.equal(await pidOf(next), pid)
  await next.attach('web', socketPath)
  assert.equal(await byteAt(client, 0), 7)
  await next.detach(socketPath)
  await assert.rejects(client.read(0, block(0)))
  await next.close()
  assert.deepEqual(serversOf(), [])
  assert.equal(existsSync(join(dir, 'control.sock')), false)
})

test('one of another version is replaced under its guests', async (t) => {
  const { keep, root, serversOf, log, told } = await world(t)
  const old = keep('1')
  const pid = await pidOf(old)
  await old.call('create', { name: 'web', sizeBytes: mib(64) })
  const socketPath = join(root, 'web.sock')
  await old.attach('web', socketPath)
  const client = await connectNbd({ address: { socketPath }, exportName: 'web' })
  await client.write(0, block(9))
  await old.close()

  const next = keep('2')
  await next.attach('web', socketPath)
  assert.equal((await next.call('hello', {})).version, '2')
  assert.deepEqual(serversOf(), [await pidOf(next)])
  assert.notEqual(await pidOf(next), pid)
  await assert.rejects(client.read(0, block(0)))
  await using again = await reconnect(socketPath, 'web')
  assert.equal(await byteAt(again, 0), 9)
  assert.ok(log.has('volumes.server_replaced'))
  assert.deepEqual(told(), ['serving started', 'away upgrade 1 makes way for 2', 'serving started'])
})

test('a disk is served under the lease that its holder has, by each server that comes, and nobody else writes it', async (t) => {
  const { keep, root, dir, end } = await world(t)
  const keeper = keep()
  await keeper.call('create', { name: 'web', sizeBytes: mib(64) })
  const { epoch } = await keeper.call('acquireLease', { name: 'web', holder: HOLDER })
  const socketPath = join(root, 'web.sock')
  const exportName = `web:${epoch}`
  assert.equal(await keeper.attach('web', socketPath), exportName)
  for (let index = 0; index < 2; index += 1) {
    const client = await reconnect(socketPath, exportName)
    await client.write(index * 4096, block(index + 1))
    {
      await using other = await connectNbd({ address: { socketPath: join(dir, 'data.sock') }, exportName: 'web' })
      assert.equal(other.readOnly, true)
      assert.equal(await byteAt(other, index * 4096), index + 1)
    }
    await assert.rejects(connectNbd({ address: { socketPath }, exportName: 'web' }), 'its socket has the one export')
    await end(await pidOf(keeper), 'SIGKILL')
    await client.close().catch(() => {})
  }
  const writer = await reconnect(socketPath, exportName)
  assert.deepEqual([await byteAt(writer, 0), await byteAt(writer, 4096)], [1, 2])

  // Taken over by another: what this one still writes is refused, also behind the next server.
  const other = HOLDER.replace('1', '2')
  await keeper.call('acquireLease', { name: 'web', holder: other, epoch })
  await assert.rejects(writer.write(0, block(9)), isRefused)
  await end(await pidOf(keeper), 'SIGKILL')
  await writer.close().catch(() => {})
  await using reader = await reconnect(socketPath, 'web')
  await assert.rejects(connectNbd({ address: { socketPath }, exportName }))
  assert.deepEqual([reader.readOnly, await byteAt(reader, 0)], [true, 1])
})

test('one that cannot be opened is said in words, and tried again until it can', async (t) => {
  const { keep, dir, serversOf, log, changes } = await world(t)
  const first = keep()
  await first.call('create', { name: 'web', sizeBytes: mib(64) })
  await first.close()
  const store = readFileSync(join(dir, 'store'))
  await writeFile(join(dir, 'store'), Buffer.alloc(1024 * 1024, 'no store'))
  const keeper = keep()
  const said = () => log.lines.find(({ event }) => event === 'volumes.server_not_there')
  for (let tries = 0; tries < 1000 && !said(); tries += 1) await sleep(20)
  assert.match(String(said()?.fields['error']), /ended at once: .*none of the four superblocks is whole/s)
  await writeFile(join(dir, 'store'), store)
  assert.deepEqual(
    (await keeper.call('list', {})).map(({ name }) => name),
    ['web'],
  )
  assert.equal(serversOf().length, 1)
  assert.ok(changes.some((change) => change.cause === 'failed' && change.detail?.includes('superblocks')))
})

test('its control socket and its files are for nobody else', async (t) => {
  const { keep, dir } = await world(t)
  const keeper = keep()
  await keeper.call('hello', {})
  for (const name of ['control.sock', 'store', 'lock']) assert.equal((await stat(join(dir, name))).mode & 0o077, 0, name)
  // Nonsense ends nothing.
  const socket = createConnection({ path: join(dir, 'control.sock') })
  socket.end('nonsense\n')
  const [answer] = (await once(socket, 'data')) as [Buffer]
  assert.match(answer.toString(), /"code":"invalid"/)
  assert.equal((await keeper.call('hello', {})).version, '1')
})

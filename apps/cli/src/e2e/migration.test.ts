/** Migration between the agents of two hosts, each a process of its own with a folder and a volume server of its own: real guests on QEMU. */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { askServer } from '@typevisor/storage'
import { guestsOf, run, until, type Life } from './child.ts'
import { Mover } from './mover.ts'
import { twoHosts, type JoinedHost as Host, type TwoHosts } from './two-hosts.ts'

/** Bytes a second, so slow that there is a time in which something can be killed: while disks go, whose holes count too, and behind them. */
const SLOWLY = 24 * 1024 * 1024
const LESS_SLOWLY = 128 * 1024 * 1024

/** Finds the disk that was attached as `data`. */
const disk = 'd=/dev/$(for each in /sys/block/vd*; do [ "$(cat $each/serial)" = data ] && basename $each; done)'

describe('between two agents', { timeout: 600_000 }, () => {
  let world: TwoHosts
  let life: Life
  let mover: Mover
  const cli = (...words: string[]) => run(words, { TYPEVISOR_DATA: world.server.dataDir })

  before(async () => {
    world = await twoHosts()
    ;({ life } = world)
    mover = new Mover(world.hosts, () => life.client)
  })
  after(() => world[Symbol.asyncDispose]())

  const params = { instance: 'mover' }
  const done = async (call: Promise<{ operation: { state: string; fault: unknown } }>) => {
    const { operation } = await call
    assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
  }
  const query = { wait: 60 }

  const nameOf = ({ name }: Host): string => name

  test('a running guest goes there and back with its memory and its disk, answers its agent, and nothing is left behind', async () => {
    const { client } = life
    await mover.create({ vcpuCountMax: 2, forwards: [{ guestPort: 22 }] })
    // What came and was changed while it runs goes with it.
    await done(client.call('instance.set', { params, query, body: { vcpuCount: 2 } }))
    const data = { kind: 'disk', device: 'data', sizeBytes: 16 * 1024 * 1024 } as const
    await done(client.call('instance.attach', { params, query, body: data }))
    await done(client.call('instance.attach', { params, query, body: { kind: 'cd', device: 'cd' } }))
    await until('it sees the disk', () =>
      mover.exec(`${disk}; echo kept on data | dd of=$d conv=fsync 2>/dev/null`).then(
        () => true,
        () => false,
      ),
    )
    for (const to of ['right', 'left']) {
      const before = await mover.before()
      const { code, said } = await cli('instance', 'migrate', 'mover', '--to', to)
      assert.equal(code, 0, said)
      assert.equal(nameOf(await mover.assertWhole(`to ${to}`, before)), to)
      assert.ok(((await mover.row()).forwards[0]?.hostPort ?? 0) > 0)
      assert.equal(await mover.exec(`${disk}; head -c 12 $d; nproc`), 'kept on data2')
      // `date` of a whole second, and the time that the answer takes.
      await until('its clock is right', async () => {
        const lateMs = Date.now() - Number(await mover.exec('date +%s')) * 1000
        return lateMs >= -100 && lateMs < 1600
      })
    }
  })

  const moments: readonly {
    readonly what: string
    readonly kill: 'source' | 'target' | 'server' | 'source and target'
    readonly by?: NodeJS.Signals
    readonly at: number
  }[] = [
    { what: "the source's agent is killed while disks go", kill: 'source', at: 0.05 },
    { what: "the target's agent is killed while disks go", kill: 'target', at: 0.05 },
    { what: 'the server is killed while disks go', kill: 'server', at: 0.05 },
    { what: "the source's agent is killed while memory goes", kill: 'source', at: 0.6 },
    { what: "the target's agent is killed while memory goes", kill: 'target', at: 0.6 },
    { what: "the source's agent is killed at the switchover", kill: 'source', at: 1 },
    { what: "the target's agent is killed at the switchover", kill: 'target', at: 1 },
    { what: 'both agents are killed at the switchover', kill: 'source and target', at: 1 },
    { what: 'both agents are stopped at the switchover', kill: 'source and target', by: 'SIGTERM', at: 1 },
    { what: 'the server is killed at the switchover', kill: 'server', at: 1 },
  ]
  for (const { what, kill, at, by = 'SIGKILL' } of moments) {
    test(`${what}: one host has the guest, which goes on`, async () => {
      const before = await mover.before()
      const [source, target] = await mover.hostOf()
      const body = { host: target.name, bandwidthBytes: at < 0.5 ? SLOWLY : LESS_SLOWLY }
      const { operation } = await life.client.call('instance.migrate', { params: { instance: 'mover' }, body })
      const look = () => life.client.call('operation.get', { params: { operation: operation.id } })
      await until(`it is at ${at}`, async () => {
        const { state, step, progress } = await look()
        return state !== 'running' || (step === 'move' && (progress ?? 0) >= at)
      })
      const victims =
        kill === 'server' ? [] : [source, target].filter((_, index) => kill.includes(['source', 'target'][index] ?? ''))
      await Promise.all(victims.map(({ agent }) => agent.kill(by)))
      if (kill === 'server') {
        await life.child.kill('SIGKILL')
        life = await world.server.start('--no-agent')
        world.address.target = life.url
      }
      for (const host of victims) host.agent = world.startAgent(host)
      const ended = await until('the operation ends', async () => {
        const found = await look().catch(() => null)
        return found && found.state !== 'running' && found.state !== 'undoing' ? found : null
      })
      assert.notEqual(ended.state, 'stuck', JSON.stringify(ended.fault))
      if (at < 0.5) assert.equal(ended.state, kill === 'server' ? 'done' : 'undone')
      await mover.untilAnswers()
      const now = await mover.assertWhole(what, before)
      if (ended.state === 'done') assert.equal(now, target)
    })
  }

  /** It is saved or stopped on one host; the other one has nothing of it, in its folders and in its store of volumes. */
  async function assertRests(what: string, kind: string): Promise<Host> {
    const [here, there] = await mover.hostOf()
    const { id, state, operation } = await mover.row()
    assert.deepEqual([state.kind, operation], [kind, null], what)
    for (const { dataDir } of world.hosts) assert.equal(guestsOf(dataDir).size, 0, what)
    for (const folder of ['volumes', 'domains', 'saves']) assert.deepEqual(await readdir(join(there.dataDir, folder)), [], what)
    assert.equal((await readdir(join(here.dataDir, 'saves'))).length, kind === 'saved' ? 1 : 0, what)
    assert.deepEqual(await volumesOf(there, id), [], what)
    assert.deepEqual(await volumesOf(here, id), [`${id}.data`, `${id}.root`], what)
    return here
  }
  async function volumesOf({ dataDir }: Host, id: string): Promise<string[]> {
    const server = await askServer(join(dataDir, 'disks'))
    assert.ok(server)
    const names = (await server.call('list', {})).map(({ name }) => name)
    server.close()
    return names.filter((name) => name.startsWith(id)).toSorted()
  }

  test('saved on one host it goes to the other and is restored there, with its clock right; stopped, it goes back', async () => {
    const { client } = life
    const before = await mover.before()
    const [source, target] = await mover.hostOf()
    await done(client.call('instance.save', { params, query }))
    const savedAt = Date.now()
    const { code, said } = await cli('instance', 'migrate', 'mover', '--to', target.name)
    assert.equal(code, 0, said)
    assert.equal(await assertRests('saved, moved', 'saved'), target)
    // So long that a clock that stood still would be seen.
    await until('it was saved for a while', () => Date.now() - savedAt > 6000)
    await done(client.call('instance.restore', { params, query }))
    assert.equal(await mover.assertWhole('restored', before), target)
    await until('its clock is right', async () => {
      const lateMs = Date.now() - Number(await mover.exec('date +%s')) * 1000
      return lateMs >= -100 && lateMs < 1600
    })
    // A volume that is kept of a detached disk goes with one that is stopped, and with no other.
    await mover.exec('echo written >/root/later; sync')
    await done(client.call('instance.detach', { params: { ...params, device: 'data' }, query }))
    const live = await client.call('instance.migrate', { params, query, body: { host: source.name } })
    assert.deepEqual([live.operation.state, live.operation.fault?.code], ['undone', 'conflict'])
    await done(client.call('instance.shutdown', { params, query }))
    const back = await cli('instance', 'migrate', 'mover', '--to', source.name)
    assert.equal(back.code, 0, back.said)
    assert.equal(await assertRests('stopped, moved', 'stopped'), source)
    await done(client.call('instance.attach', { params, query, body: { kind: 'disk', device: 'data' } }))
    await done(client.call('instance.start', { params, query }))
    await mover.untilAnswers()
    assert.equal(await mover.exec('cat /root/kept /root/later'), `${before.boot}\nwritten`)
    await until('it sees the disk', async () => (await mover.exec(`${disk}; head -c 12 $d`)) === 'kept on data')
    await mover.countUp()
  })

  for (const kill of ['source', 'target', 'server'] as const) {
    test(`a saved one is on its way and the ${kill} is killed: one host has it whole, the other nothing`, async () => {
      const boot = await mover.bootId()
      const [source, target] = await mover.hostOf()
      await done(life.client.call('instance.save', { params, query }))
      const body = { host: target.name, bandwidthBytes: SLOWLY }
      const { operation } = await life.client.call('instance.migrate', { params, body })
      const look = () => life.client.call('operation.get', { params: { operation: operation.id } })
      await until('it is on its way', async () => {
        const { state, step, progress } = await look()
        return state !== 'running' || (step === 'move' && (progress ?? 0) >= 0.05)
      })
      const victim = { source, target, server: null }[kill]
      if (victim) {
        await victim.agent.kill('SIGKILL')
        victim.agent = world.startAgent(victim)
      } else {
        await life.child.kill('SIGKILL')
        life = await world.server.start('--no-agent')
        world.address.target = life.url
      }
      const ended = await until('the operation ends', async () => {
        const found = await look().catch(() => null)
        return found && found.state !== 'running' && found.state !== 'undoing' ? found : null
      })
      assert.equal(ended.state, kill === 'server' ? 'done' : 'undone', JSON.stringify(ended.fault))
      assert.equal(await assertRests(kill, 'saved'), kill === 'server' ? target : source)
      await done(life.client.call('instance.restore', { params, query }))
      await mover.untilAnswers()
      assert.equal(await mover.bootId(), boot)
    })
  }

  test('a move is cancelled, and the guest goes on where it was; what does not fit is refused', async () => {
    const { client } = life
    const before = await mover.before()
    const [source, target] = await mover.hostOf()
    const { operation } = await client.call('instance.migrate', { params, body: { host: target.name, bandwidthBytes: SLOWLY } })
    await until('it goes', async () => {
      const { progress } = await client.call('operation.get', { params: { operation: operation.id } })
      return (progress ?? 0) > 0.05
    })
    await client.call('operation.cancel', { params: { operation: operation.id } })
    const ended = await client.call('operation.get', { params: { operation: operation.id }, query: { wait: 30 } })
    assert.equal(ended.state, 'undone')
    assert.equal(await mover.assertWhole('cancelled', before), source)
    for (const [host, code] of [
      [source.name, 'conflict'],
      ['nowhere', 'not_found'],
    ] as const) {
      await assert.rejects(client.call('instance.migrate', { params, body: { host } }), { code })
    }
    await done(client.call('instance.destroy', { params, query }))
    for (const { dataDir } of world.hosts) assert.equal(guestsOf(dataDir).size, 0)
  })
})

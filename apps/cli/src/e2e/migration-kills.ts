/**
 * A guest that moves between two hosts while whoever carries it is killed at random moments: agents, both of them, the server, also while they
 * start again. After each round it runs on exactly one host, the one that its row names, as it did before: same boot, a count in its memory that
 * goes on, its disk. What and when come from one seed.
 */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { seededRng } from '@typevisor/sim'
import { guestsOf, until } from './child.ts'
import { Mover } from './mover.ts'
import { twoHosts } from './two-hosts.ts'

const MIB = 1024 * 1024
const VICTIMS = ['source', 'target', 'both', 'server', 'all'] as const
/** As fast as it goes, or so slow that most kills fall in between. */
const BANDWIDTHS = [undefined, 512 * MIB, 128 * MIB, 48 * MIB] as const
/** From the command to a kill. */
const KILL_MS_MAX = 4000

export interface MigrationKillsOptions {
  readonly seed: number
  readonly roundCount: number
  readonly say: (text: string) => void
}

export async function migrationKills({ seed, roundCount, say }: MigrationKillsOptions): Promise<void> {
  const rng = seededRng(`migration-kills/${seed}`)
  await using world = await twoHosts()
  let { life } = world
  const mover = new Mover(world.hosts, () => life.client)
  await mover.create()
  const outcomes = { done: 0, undone: 0, kills: 0 }
  const startServer = async (): Promise<void> => {
    life = await world.server.start('--no-agent')
    world.address.target = life.url
  }
  for (let round = 1; round <= roundCount; round += 1) {
    const before = await mover.before()
    const [source, target] = await mover.hostOf()
    const bandwidthBytes = rng.pick(BANDWIDTHS)
    const body = { host: target.name, ...(bandwidthBytes === undefined ? {} : { bandwidthBytes }) }
    const { operation } = await life.client.call('instance.migrate', { params: mover.params, body })
    const kind = rng.pick(VICTIMS)
    await sleep(rng.below(KILL_MS_MAX))
    const agents = kind === 'source' ? [source] : kind === 'target' ? [target] : kind === 'server' ? [] : [source, target]
    const killsServer = kind === 'server' || kind === 'all'
    await Promise.all([...agents.map(({ agent }) => agent.kill('SIGKILL')), ...(killsServer ? [life.child.kill('SIGKILL')] : [])])
    outcomes.kills += agents.length + (killsServer ? 1 : 0)
    if (killsServer) await startServer()
    for (const host of agents) {
      host.agent = world.startAgent(host)
      // Now and then it is killed again while it starts.
      if (rng.chance(0.25)) {
        await sleep(rng.below(1500))
        await host.agent.kill('SIGKILL')
        outcomes.kills += 1
        host.agent = world.startAgent(host)
      }
    }
    const what = `round ${round}, seed ${seed}: ${kind} at ${String(bandwidthBytes)} bytes a second`
    const ended = await until(
      `${what}: the operation ends`,
      async () => {
        const found = await life.client.call('operation.get', { params: { operation: operation.id } }).catch(() => null)
        return found && found.state !== 'running' && found.state !== 'undoing' ? found : null
      },
      120_000,
    )
    assert.ok(ended.state === 'done' || ended.state === 'undone', `${what}: ${ended.state} ${JSON.stringify(ended.fault)}`)
    assert.notEqual(ended.fault?.code, 'internal', `${what}: ${ended.fault?.message}`)
    outcomes[ended.state] += 1
    await mover.untilAnswers()
    const now = await mover.assertWhole(what, before)
    assert.equal(now.name, (ended.state === 'done' ? target : source).name, what)
  }
  say(`${outcomes.kills} kills in ${roundCount} moves, of which ${outcomes.done} were done and ${outcomes.undone} undone`)
  const { operation } = await life.client.call('instance.destroy', { params: mover.params, query: { wait: 60 } })
  assert.equal(operation.state, 'done')
  for (const { dataDir } of world.hosts) assert.equal(guestsOf(dataDir).size, 0)
}

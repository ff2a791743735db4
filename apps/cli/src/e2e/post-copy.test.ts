/**
 * Post-copy between the agents of two hosts: a real guest runs on the other one while its memory is still on the way. For as long as this
 * runs, and by root alone, every user of this machine may handle page faults of its own, as QEMU's has to (vm.unprivileged_userfaultfd).
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { run, runTagOf, until, type Life } from './child.ts'
import { Mover } from './mover.ts'
import { twoHosts, type TwoHosts } from './two-hosts.ts'

const ALLOWED = '/proc/sys/vm/unprivileged_userfaultfd'
const wasAllowed = readFileSync(ALLOWED, 'utf8').trim()
const skip = process.getuid?.() === 0 ? false : `${ALLOWED} is root's`
const MIB = 1024 * 1024
/** So slow that what is left of its memory takes about a second. */
const SLOWLY = 24 * MIB

describe('by post-copy', { timeout: 400_000, skip }, () => {
  let world: TwoHosts
  let life: Life
  let mover: Mover
  const params = { instance: 'mover' }

  before(async () => {
    world = await twoHosts()
    ;({ life } = world)
    mover = new Mover(world.hosts, () => life.client)
    await mover.create()
  })
  after(async () => {
    writeFileSync(ALLOWED, wasAllowed)
    await world[Symbol.asyncDispose]()
  })

  test('where the host does not let QEMU fetch memory, it is refused with the reason, and the guest goes on', async (t) => {
    if (wasAllowed !== '0') return t.skip(`${ALLOWED} is ${wasAllowed}`)
    const words = ['instance', 'migrate', 'mover', '--to', 'right', '--post-copy']
    const { code, said } = await run(words, { TYPEVISOR_DATA: world.server.dataDir })
    assert.notEqual(code, 0)
    assert.match(said, /by post-copy: QEMU runs as user \d+, whom the host lets handle no page faults/)
    assert.equal((await mover.row()).host, 'left')
  })

  for (const kill of ['nobody', 'the source', 'the target'] as const) {
    test(`it goes over, ${kill} is killed meanwhile, and all of it comes`, async () => {
      writeFileSync(ALLOWED, '1')
      const before = await mover.before()
      const [source, target] = await mover.hostOf()
      const body = { host: target.name, bandwidthBytes: SLOWLY, postCopy: true }
      const { operation } = await life.client.call('instance.migrate', { params, body })
      const look = () => life.client.call('operation.get', { params: { operation: operation.id } })
      const { id } = await mover.row()
      const record = join('/run/typevisor', runTagOf(target.dataDir), id, 'domain.json')
      const phase = () =>
        existsSync(record) ? (JSON.parse(readFileSync(record, 'utf8')) as { phase: { kind: string } }).phase.kind : ''
      await until('it runs there', async () => phase() === 'arriving' || (await look()).state !== 'running')
      assert.equal(phase(), 'arriving', 'it has no time to be killed in')
      const victim = kill === 'the source' ? source : kill === 'the target' ? target : null
      if (victim) {
        await victim.agent.kill('SIGKILL')
        victim.agent = world.startAgent(victim)
      }
      const ended = await until('the operation ends', async () => {
        const found = await look()
        return found.state !== 'running' && found.state !== 'undoing' ? found : null
      })
      assert.equal(ended.state, 'done', JSON.stringify(ended.fault))
      await mover.untilAnswers()
      assert.equal(await mover.assertWhole(kill, before), target)
      // Nothing is fetched any more: it can be asked for all that another one can.
      const { operation: saved } = await life.client.call('instance.save', { params, query: { wait: 60 } })
      assert.equal(saved.state, 'done', JSON.stringify(saved.fault))
      await life.client.call('instance.restore', { params, query: { wait: 60 } })
      await mover.untilAnswers()
    })
  }
})

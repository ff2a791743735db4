/** Completion in a real bash, of a real server, and of one that is away. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createServer } from 'node:net'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { openPlatform, type TestPlatform } from './harness.ts'

const execute = promisify(execFile)
const SHIM = join(import.meta.dirname, '../../../../typevisor')

/** What bash would offer for the last word. */
async function offered(words: readonly string[], env: NodeJS.ProcessEnv): Promise<{ words: string[]; stderr: string }> {
  const script = `source <("$0" completion bash); COMP_WORDS=("$0" "$@"); COMP_CWORD=$#; _typevisor; printf '%s\\n' "\${COMPREPLY[@]}"`
  const { stdout, stderr } = await execute('bash', ['-c', script, SHIM, ...words], { env: { ...process.env, ...env } })
  return { words: stdout.split('\n').filter((word) => word !== ''), stderr }
}

describe('completion', () => {
  let world: TestPlatform
  before(async () => {
    world = await openPlatform()
    for (const name of ['web-1', 'web-2', 'db'])
      await world.client.call('instance.create', { body: { name }, query: { wait: 20 } })
  })
  after(() => world[Symbol.asyncDispose]())
  const here = async (...words: string[]) => (await offered(words, { TYPEVISOR_DATA: world.dataDir })).words

  test('knows instances, images and hosts by asking the server', async () => {
    assert.deepEqual(await here('instance', 'pause', 'w'), ['web-1', 'web-2'])
    assert.deepEqual(await here('instance', 'create', 'x', '--image', ''), ['micro'])
    assert.deepEqual(await here('instance', 'create', 'x', '--host', ''), ['local'])
  })

  test('knows the snapshots of the instance that was named, for what wants one', async () => {
    for (const name of ['monday', 'tuesday'])
      await world.client.call('instance.snapshot', { params: { instance: 'web-1' }, body: { name }, query: { wait: 20 } })
    assert.deepEqual(await here('instance', 'revert', 'web-1', ''), ['monday', 'tuesday'])
    assert.deepEqual(await here('instance', 'clone', 'web-1', 't'), ['tuesday'])
    assert.deepEqual(await here('instance', 'snapshot-delete', 'web-1', 'm'), ['monday'])
    assert.deepEqual(await here('instance', 'revert', 'web-2', ''), [])
    assert.deepEqual(await here('instance', 'revert', 'web-1', '--st'), ['--start'])
    assert.deepEqual(
      await here('instance', 'clone', 'web-1', 'monday', ''),
      await here('instance', 'clone', 'web-1', 'monday', '-'),
    )
    assert.deepEqual(await here('instance', 'pause', 'web-1', 'm'), [])
  })

  test('knows verbs, flags and their values, of operations and of commands', async () => {
    assert.deepEqual(await here('inst'), ['instance', 'install'])
    assert.deepEqual(await here('instance', 'un'), ['unpause'])
    assert.deepEqual(await here('instance', 'create', 'x', '--me'), ['--memory', '--memory-max'])
    assert.deepEqual(await here('instance', 'create', 'x', '--wait', 'a'), ['agent'])
    assert.deepEqual(await here('instance', 'list', '--state', 'sa'), ['saved'])
    assert.deepEqual(await here('start', '--tls'), ['--tls-cert', '--tls-key'])
    assert.deepEqual(await here('agent', '--ser'), ['--server'])
    assert.deepEqual(await here('down', '--g'), ['--guests'])
    assert.deepEqual(await here('instance', 'exec', 'web-1', '--', '--'), [])
  })

  test('says nothing, and soon, when the server is away or does not answer', async () => {
    const away = await offered(['instance', 'pause', ''], { TYPEVISOR_DATA: join(world.dataDir, 'nothing-here') })
    assert.deepEqual(away, { words: [], stderr: '' })
    const deaf = createServer(() => {}).listen(0, '127.0.0.1')
    await once(deaf, 'listening')
    const url = `http://127.0.0.1:${(deaf.address() as AddressInfo).port}`
    const begin = performance.now()
    assert.deepEqual(await offered(['instance', 'pause', ''], { TYPEVISOR_URL: url, TYPEVISOR_TOKEN: 'x' }), {
      words: [],
      stderr: '',
    })
    // It gives up by itself after two seconds; a busy machine takes as long again for each process.
    assert.ok(performance.now() - begin < 60_000)
    deaf.close()
  })
})

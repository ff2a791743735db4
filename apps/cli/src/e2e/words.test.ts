/** What the command line says to people, of a real server: passwords on a terminal of their own, refusals in the words that were typed. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { createClient } from '@typevisor/api/client'
import { openPlatform, type TestPlatform } from './harness.ts'
import { run as runWords, until } from './child.ts'

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url))

describe('the command line and a server', () => {
  let world: TestPlatform
  before(async () => {
    world = await openPlatform()
  })
  after(() => world[Symbol.asyncDispose]())

  const run = (...words: string[]) => runWords(words, { TYPEVISOR_DATA: world.dataDir })
  const signsIn = async (account: string, password: string): Promise<boolean> => {
    const client = createClient({ baseUrl: world.platform.server.url })
    return client.call('session.create', { body: { account, password } }).then(
      () => true,
      () => false,
    )
  }
  /** On a terminal of its own: `script` (bsdutils) makes one. Types each line when it is asked for. */
  const onTerminal = async (words: string[], answers: readonly (readonly [RegExp, string])[]) => {
    const command = [process.execPath, MAIN, ...words].map((word) => `'${word}'`).join(' ')
    const env = { ...process.env, TYPEVISOR_DATA: world.dataDir }
    const child = spawn('script', ['-qec', command, '/dev/null'], { env, stdio: ['pipe', 'pipe', 'inherit'] })
    let said = ''
    child.stdout.on('data', (part: Buffer) => (said += part.toString()))
    const closed = once(child, 'close')
    for (const [question, answer] of answers) {
      await until(`it asks ${question}: ${said}`, () => question.test(said))
      child.stdin.write(answer)
    }
    const [code] = (await closed) as [number]
    return { code, said }
  }

  test('a password is asked for twice on a terminal, and never shown', async () => {
    const typed = 'correct horse battery'
    const { code, said } = await onTerminal(
      ['account', 'create', 'ada'],
      [
        [/New password: /, `${typed}\r`],
        [/The same again: /, `${typed}\r`],
      ],
    )
    assert.equal(code, 0, said)
    assert.doesNotMatch(said, /correct/)
    assert.ok(await signsIn('ada', typed))
    const differs = await onTerminal(
      ['account', 'password', 'ada'],
      [
        [/New password: /, 'one of the two\r'],
        [/The same again: /, 'another of them\r'],
      ],
    )
    assert.equal(differs.code, 2)
    assert.match(differs.said, /the two passwords differ; nothing was set/)
    assert.equal((await onTerminal(['account', 'password', 'ada'], [[/New password: /, '\x03']])).code, 1)
    assert.ok(await signsIn('ada', typed), 'it is still the first one')
  })

  test('a password comes from standard input or a file; among the words it is warned of; with none the ways are named', async () => {
    const path = join(world.dataDir, 'password')
    writeFileSync(path, 'from a file, long\n')
    assert.equal((await run('account', 'create', 'bob', '--password', `@${path}`)).code, 0)
    assert.ok(await signsIn('bob', 'from a file, long'))

    const env = { ...process.env, TYPEVISOR_DATA: world.dataDir }
    const child = spawn(process.execPath, [MAIN, 'account', 'password', 'bob', '--password', '-'], {
      env,
      stdio: ['pipe', 'ignore', 'inherit'],
    })
    child.stdin.end('from a pipe, long\n')
    assert.deepEqual((await once(child, 'close'))[0], 0)
    assert.ok(await signsIn('bob', 'from a pipe, long'))

    const shown = await run('account', 'password', 'bob', '--password', 'seen by all of us')
    assert.equal(shown.code, 0)
    assert.match(shown.said, /seen by other users \(ps\)/)
    const none = await run('account', 'password', 'bob')
    assert.equal(none.code, 2)
    assert.match(none.said, /--password - reads it from standard input, --password @FILE/)
  })

  test('a verb says what became of the thing by its name, also of one that is gone', async () => {
    assert.equal((await run('instance', 'create', 'gone')).said, 'gone: running\n')
    assert.equal((await run('instance', 'pause', 'gone')).said, 'gone: paused\n')
    assert.equal((await run('instance', 'destroy', 'gone', '--yes')).said, 'gone: gone\n')
    assert.match(
      (await run('instance', 'create', 'later', '--no-wait')).said,
      /^create later: under way; `typevisor operation get/,
    )
    assert.equal((await run('image', 'build', 'micro')).said, 'image build micro: done\n')
  })

  test('what the server refuses is told by the flag, as it was typed', async () => {
    const { code, said } = await run('instance', 'create', 'x', '--memory', '1K', '--vcpus', '0')
    assert.equal(code, 2)
    assert.match(said, /--vcpus: got "0", want at least 1/)
    assert.match(said, /--memory: got "1K", want at least 64 MiB/)
    assert.doesNotMatch(said, /body\./)
  })
})

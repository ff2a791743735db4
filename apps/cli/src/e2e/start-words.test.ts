/** What `start` prints is for people: how to get in, what goes on, how to stop it; and nothing of errors that their callers were told. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { test } from 'node:test'
import { createClient } from '@typevisor/api/client'
import { endAll, machine, run, typevisor } from './child.ts'
import { temporaryFolder } from './harness.ts'

test('start says where it is and how to get in, is quiet about refused requests, and says at Ctrl-C what ends', async () => {
  const dataDir = await temporaryFolder()
  const env = { TYPEVISOR_DATA: dataDir }
  try {
    await using child = typevisor(['start', '--port', '0', '--data', dataDir, '--driver', 'sim'])
    await child.says(/hello is up after .* s;/)
    await child.says(/\nCtrl-C stops it; domains in memory end with it\n/)
    const [, url = '', name = '', password = ''] = await child.says(/portal: (\S+)\naccount: (\S+)\npassword: (\S+)\n/)
    await createClient({ baseUrl: url }).call('session.create', { body: { account: name, password } })

    const before = child.said()
    assert.equal((await run(['instance', 'get', 'nothing'], env)).code, 3)
    assert.equal((await run(['instance', 'exec', 'hello', '--', 'no-such-command'], env)).code, 127)
    assert.equal((await run(['instance', 'create', 'hello'], env)).code, 4)
    assert.equal((await run(['instance', 'create', 'x', '--memory', '1'], env)).code, 2)
    assert.equal(child.said(), before, 'not a word more')

    process.kill(child.pid, 'SIGINT')
    assert.equal(await child.exited, 0)
    assert.match(child.said(), /\nstopping \.\.\.\nstopped; 1 domain in memory ended with it\n$/)
  } finally {
    await endAll(dataDir)
    await rm(dataDir, { recursive: true, force: true })
  }
})

/** Addresses on which something listens at the port, as the kernel knows them (proc_pid_net(5)): 0100007F is 127.0.0.1. */
const boundAt = (port: number): string[] =>
  ['tcp', 'tcp6'].flatMap((table) =>
    readFileSync(`/proc/net/${table}`, 'utf8')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === '0A' && Number.parseInt(fields[1]?.split(':')[1] ?? '', 16) === port)
      .map((fields) => fields[1]?.split(':')[0] ?? ''),
  )

test('start listens on 127.0.0.1 alone, and elsewhere only where it is told to', async () => {
  await using host = await machine()
  for (const [words, addresses] of [
    [[], ['0100007F']],
    [['--listen', '127.0.0.2'], ['0200007F']],
    [['--listen', '0.0.0.0'], ['00000000']],
  ] as const) {
    const { child, url } = await host.start('--driver', 'sim', ...words)
    assert.deepEqual(boundAt(Number(new URL(url).port)), addresses, words.join(' '))
    await child.kill('SIGTERM')
  }
})

test('a wrong flag of start is told with the one that was meant', async () => {
  const { code, said } = await run(['start', '--prot', '1'])
  assert.equal(code, 2)
  assert.match(said, /start: unknown flag --prot \(did you mean --port\?/)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { help } from '../help.ts'
import { parseAgent } from './agent.ts'
import { parseStart } from './start.ts'

const SERVER = ['--server', 'https://cloud.example:8006']
const TOKEN = { TYPEVISOR_HOST_TOKEN: 'tvh_1_x' }
const refused = (words: readonly string[], want: RegExp, env: NodeJS.ProcessEnv = TOKEN): void =>
  assert.throws(
    () => parseAgent(words, env),
    (error: unknown) => error instanceof Fault && error.code === 'invalid' && want.test(error.message),
  )

test('the agent takes its words; the token may come by the environment', () => {
  const words = [
    ...SERVER,
    '--name',
    'rack-2',
    '--data',
    '/srv/agent',
    '--driver',
    'sim',
    '--log',
    'error',
    '--metrics-port',
    '9178',
  ]
  assert.deepEqual(parseAgent(words, TOKEN), {
    server: 'https://cloud.example:8006',
    token: 'tvh_1_x',
    name: 'rack-2',
    dataDir: '/srv/agent',
    driver: 'sim',
    migrationAddress: undefined,
    metricsPort: 9178,
    logLevel: 'error',
  })
  assert.equal(parseAgent([...SERVER, '--token', 'tvh_2_y'], TOKEN).token, 'tvh_2_y')
  const { dataDir, driver, logLevel } = parseAgent(SERVER, { ...TOKEN, TYPEVISOR_DATA: '/srv/tv' })
  assert.deepEqual([dataDir, driver, logLevel], ['/srv/tv/agent', 'qemu', 'warn'])
})

test('wrong words of the agent are refused by their flag, with what was meant', () => {
  refused(['--servr', 'x'], /^agent: unknown flag --servr \(did you mean --server\?\)/)
  refused([], /^--server: got nothing, want/)
  refused(['--server', 'cloud.example'], /^--server: got "cloud.example", want/)
  refused(['--server', 'https://'], /^--server: got "https:\/\/", want/)
  refused(SERVER, /^--token: got nothing/, {})
  refused([...SERVER, '--name', 'Rack 2'], /^--name: got "Rack 2"/)
  refused([...SERVER, '--driver', 'kvm'], /^--driver: got "kvm", want qemu or sim$/)
  refused([...SERVER, '--metrics-port', '70000'], /^--metrics-port: got "70000", want 0 to 65535/)
  refused([...SERVER, '--log', 'loud'], /^--log: got "loud", want debug, info, warn or error$/)
})

test('the words of start are refused alike', () => {
  for (const [words, want] of [
    [['--driver', 'kvm'], /^--driver: got "kvm", want qemu or sim$/],
    [['--log', 'loud'], /^--log: got "loud", want debug, info, warn or error$/],
    [['--host', 'Rack_2'], /^--host: got "Rack_2", want 1 to 63/],
  ] as const)
    assert.throws(() => parseStart([words[0], words[1]], {}), { message: want })
})

test('the help of the agent shows every flag that it takes', async () => {
  const text = await help(['agent'])
  for (const flag of ['server', 'token', 'name', 'data', 'driver', 'log']) assert.match(text, new RegExp(`^  --${flag} `, 'm'))
})

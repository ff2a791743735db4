import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '@typevisor/base'
import { VERB_DATA } from '@typevisor/api/verbs'
import { flagsOf, parseWords } from './options.ts'

const create = (...words: string[]) => parseWords('instance create', VERB_DATA['instance.create'], words)
const refused = (words: string[], message: RegExp) =>
  assert.throws(
    () => create(...words),
    (error) => error instanceof Fault && error.code === 'invalid' && message.test(error.message),
  )

test('flags are named as people say them, and no operation has two of one name', () => {
  assert.deepEqual(
    flagsOf(VERB_DATA['instance.create']).map((flag) => flag.name),
    [
      'image',
      'vcpus',
      'memory',
      'vcpus-max',
      'memory-max',
      'huge-pages',
      'root-disk',
      'host',
      'ssh-key',
      'user',
      'user-data',
      'forward',
      'label',
      'disk-full',
      'hotplug-ports',
      'architecture',
      'firmware',
      'tpm',
      'boot-order',
      'usb',
      'autostart',
      'autostart-order',
      'on-crash',
      'start',
    ],
  )
  for (const [name, verb] of Object.entries(VERB_DATA)) {
    const names = flagsOf(verb).map((flag) => flag.name)
    assert.equal(new Set(names).size, names.length, name)
  }
})

test('settings are said as people say them, and limits of a disk in one word', () => {
  const words = [
    '--vcpus',
    '2',
    '--memory-target',
    '128M',
    '--cpu-cap=50',
    '--affinity-hard',
    '0-1',
    '--affinity-hard',
    '3',
    '--reset',
    'cpuWeight',
  ]
  const limits = ['--disk-limit', 'root:bytes=10M,operations=200', '--disk-limit', 'data:operations=5']
  const set = (...more: string[]) => parseWords('instance set', VERB_DATA['instance.set'], ['web-1', ...more])
  const { params, body, sources } = set(...words, ...limits)
  assert.deepEqual(params, { instance: 'web-1' })
  assert.deepEqual(body, {
    vcpuCount: 2,
    memoryTargetBytes: 128 * 1024 * 1024,
    cpuCapPercent: 50,
    affinityHard: ['0-1', '3'],
    reset: ['cpuWeight'],
    diskLimits: [
      { disk: 'root', bytesPerSecond: 10 * 1024 * 1024, operationsPerSecond: 200 },
      { disk: 'data', operationsPerSecond: 5 },
    ],
  })
  assert.equal(sources.get('body.diskLimits[1]')?.raw, 'data:operations=5')
  for (const bad of ['root', 'root:', 'root:bytes', 'root:bytes=1M,bytes=2M', 'root:speed=1', ':bytes=1M', 'root:bytes=x'])
    assert.throws(() => set('--disk-limit', bad), { code: 'invalid', message: /^--disk-limit: / }, bad)
})

test('sizes, lists, maps, forwards and switches are read', () => {
  const { body } = create(
    'web-1',
    '--memory',
    '512M',
    '--root-disk=2GiB',
    '--vcpus',
    '2',
    '--label',
    'tier=web',
    '--label',
    'a=b=c',
    '--ssh-key',
    'ssh-ed25519 AAAA x',
    '--ssh-key',
    'k2',
    '--forward',
    '2222:22',
    '--forward',
    'udp:0:53',
    '--no-start',
  )
  assert.deepEqual(body, {
    name: 'web-1',
    memoryBytes: 512 * 1024 ** 2,
    rootDiskBytes: 2 * 1024 ** 3,
    vcpuCount: 2,
    labels: { tier: 'web', a: 'b=c' },
    sshKeys: ['ssh-ed25519 AAAA x', 'k2'],
    forwards: [
      { protocol: 'tcp', hostPort: 2222, guestPort: 22 },
      { protocol: 'udp', hostPort: 0, guestPort: 53 },
    ],
    start: false,
  })
})

test('words of a list stand in one, or behind a flag each, and settings are called as their flags are', () => {
  const order = { bootOrder: ['network', 'disk'] }
  const { body } = create('a', '--boot-order', 'network,disk')
  assert.deepEqual({ bootOrder: body['bootOrder'] }, order)
  assert.deepEqual({ bootOrder: create('a', '--boot-order', 'network', '--boot-order', 'disk').body['bootOrder'] }, order)
  const set = (...words: string[]) => parseWords('instance set', VERB_DATA['instance.set'], ['a', ...words]).body['reset']
  assert.deepEqual(set('--reset', 'cpu-weight,memory-target', '--reset', 'affinityHard', '--reset', 'disk-limit,vcpus'), [
    'cpuWeight',
    'memoryTargetBytes',
    'affinityHard',
    'diskLimits',
    'vcpuCount',
  ])
  assert.deepEqual(set('--reset', 'weight'), ['weight'])
})

test('@FILE reads a file, @@ is a text that begins with @', () => {
  const folder = mkdtempSync(join(tmpdir(), 'typevisor-options-'))
  const path = join(folder, 'key.pub')
  writeFileSync(path, 'ssh-ed25519 AAAA me\n')
  assert.deepEqual(create('a', '--ssh-key', `@${path}`).body['sshKeys'], ['ssh-ed25519 AAAA me'])
  assert.equal(create('a', '--user-data', '@@x').body['userData'], '@x')
  refused(['a', '--user-data', `@${path}.none`], /--user-data.*ENOENT/)
  rmSync(folder, { recursive: true })
})

test('what goes to a command in the guest is taken byte for byte', () => {
  const folder = mkdtempSync(join(tmpdir(), 'typevisor-options-'))
  const path = join(folder, 'input')
  const content = Buffer.from([0, 255, 10, 13, 32, 10])
  writeFileSync(path, content)
  const { body } = parseWords('instance exec', VERB_DATA['instance.exec'], ['a', '--stdin', `@${path}`, '--', 'cat'])
  assert.equal(body['stdinBase64'], content.toString('base64'))
  rmSync(folder, { recursive: true })
})

test('what is wrong is named', () => {
  refused([], /want NAME/)
  refused(['a', 'b'], /unexpected "b"/)
  refused(['a', '--memmory', '1G'], /unknown flag --memmory \(did you mean --memory\?\); known: .*--memory/)
  refused(['a', '--memory', '12Q'], /^--memory: got "12Q", want a number with K/)
  refused(['a', '--memory'], /--memory wants SIZE/)
  refused(['a', '--forward', '22'], /HOSTPORT:GUESTPORT/)
  refused(['a', '--label', 'x'], /KEY=VALUE/)
  refused(['a', '-m', '1G'], /flags are long/)
  refused(['a', '--image', 'x', '--image', 'y'], /given twice/)
})

test('an unknown flag is told with the one that was meant', () => {
  refused(['a', '--no-wiat'], /did you mean --no-wait\?/)
})

test('a switch of a query is a switch here, and may be spelled out where no word can stand', () => {
  const list = (...words: string[]) => parseWords('operation list', VERB_DATA['operation.list'], words).query
  assert.deepEqual(list('--unfinished'), { unfinished: 'true' })
  assert.deepEqual(list('--no-unfinished'), { unfinished: 'false' })
  assert.deepEqual(list('--unfinished', 'false'), { unfinished: 'false' })
  assert.deepEqual(list('--unfinished=true'), { unfinished: 'true' })
  const force = { name: 'force', type: 'string', required: false, description: '', values: ['true', 'false'] } as const
  const destroy = { ...VERB_DATA['instance.destroy'], query: [force] }
  const { params, query } = parseWords('instance destroy', destroy, ['--force', 'true'])
  assert.deepEqual([params, query], [{ instance: 'true' }, { force: 'true' }])
})

test('a point in time is given from now or as a date', () => {
  const create = (at: string) =>
    Number(parseWords('token create', VERB_DATA['token.create'], ['t', '--expires-at', at]).body['expiresAt'])
  assert.equal(create('2030-01-31T00:00:00Z'), Date.UTC(2030, 0, 31))
  assert.ok(Math.abs(create('30d') - Date.now() - 30 * 86_400_000) < 60_000)
  assert.throws(() => create('soon'), /--expires-at: got "soon", want a time, such as 30d/)
})

test('a password is read without the end of its line', () => {
  const folder = mkdtempSync(join(tmpdir(), 'typevisor-options-'))
  const path = join(folder, 'password')
  writeFileSync(path, ' long enough for it \n')
  const { body } = parseWords('account create', VERB_DATA['account.create'], ['bob', '--password', `@${path}`])
  assert.equal(body['password'], ' long enough for it ')
  rmSync(folder, { recursive: true })
})

test('words behind -- belong to the command in the guest, whatever they look like', () => {
  const parsed = parseWords('instance exec', VERB_DATA['instance.exec'], [
    'web-1',
    '--timeout',
    '5s',
    '--',
    'ls',
    '--json',
    '-la',
    '--',
  ])
  assert.deepEqual(
    [parsed.params, parsed.body],
    [{ instance: 'web-1' }, { timeoutMs: 5000, argv: ['ls', '--json', '-la', '--'] }],
  )
})

test('any words are parsed or refused with a Fault, never anything else', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.entries(VERB_DATA)),
      fc.array(fc.oneof(fc.string(), fc.constantFrom('--', '--json', '--memory', '--label=', '--forward=1:2', '@@'))),
      ([name, verb], words) => {
        try {
          parseWords(
            name,
            verb,
            words.filter((word) => !/(?:^|=)@[^@]/.test(word)),
          ) // files of the machine are not read here
        } catch (error) {
          assert.ok(error instanceof Fault, String(error))
        }
      },
    ),
  )
})

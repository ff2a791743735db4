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
    ['image', 'vcpus', 'memory', 'root-disk', 'host', 'ssh-key', 'user', 'user-data', 'forward', 'label', 'start'],
  )
  for (const [name, verb] of Object.entries(VERB_DATA)) {
    const names = flagsOf(verb).map((flag) => flag.name)
    assert.equal(new Set(names).size, names.length, name)
  }
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
  refused(['a', '--memmory', '1G'], /unknown flag --memmory; known: .*--memory/)
  refused(['a', '--memory', '12Q'], /12Q/)
  refused(['a', '--memory'], /--memory wants SIZE/)
  refused(['a', '--forward', '22'], /HOSTPORT:GUESTPORT/)
  refused(['a', '--label', 'x'], /KEY=VALUE/)
  refused(['a', '-m', '1G'], /flags are long/)
  refused(['a', '--image', 'x', '--image', 'y'], /given twice/)
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

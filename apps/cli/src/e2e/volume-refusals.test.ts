/** Every option of `volume`, `snapshot` and `nbd serve` with values that it cannot have: one line that names it, an exit code, nothing left. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { EXIT } from '../exit-codes.ts'
import { run, typevisor } from './child.ts'
import { temporaryFolder } from './harness.ts'

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url))
const NOBODY = 65_534
const HOLDER = '11111111-2222-4333-8444-555555555555'
const LONG = 'a'.repeat(300)
const IN_FLIGHT = 4

const { usage, notFound, conflict, denied, unavailable } = EXIT
/** Of a check, where 1 and 2 say what it found. */
const [checkFailed, checkUsage] = [8, 16]
/** `D`: a folder that is served; `U`: one that is not; `R`: the folder of both; `NEW`: one that is not there. */
type Case = readonly [words: string, code: number, said: RegExp]

/** Of a flag and each of its values. `_` in a value is a space. */
const each = (words: string, flag: string, values: readonly string[], code: number, said: RegExp): Case[] =>
  values.map((value): Case => [`${words} ${flag}${value.startsWith('--') ? '' : ' '}${value}`, code, said])

const WRONG_SIZES = ['-1', '0', 'much', '65TiB', '1e9', 'NaN', '4097', '0x10', '9007199254740993', '9999999999999999T', '1PiB']
const WRONG_NAMES = ['a/b', 'a,if=none', '..', '.hidden', '.image-12345678-x', 'a'.repeat(64), 'web@s', 'ü', 'a_b', 'web:1', '-']

const CASES: readonly Case[] = [
  ...each('volume create x --dir NEW', '--size', WRONG_SIZES, usage, /--size: got "\S+", want a size .* from 4 KiB to 64 TiB/),
  ['volume create x --dir NEW', usage, /--size: got nothing/],
  ['volume create x --dir NEW --size', usage, /--size: got nothing, want SIZE/],
  ['volume create x --size --dir NEW', usage, /--size: got nothing, want SIZE/],
  ['volume create x --dir NEW --size=', usage, /--size: got nothing, want SIZE/],
  ['volume create x --dir NEW --size 1MiB --size 2MiB', usage, /--size: given twice/],
  ['volume create x --dir NEW --size 1MiB y', usage, /unexpected "y"/],
  ['volume create x --dir NEW --sise 1MiB', usage, /unknown flag --sise.*--size/],
  ...WRONG_NAMES.filter((name) => name !== '-').map((name): Case => [
    `volume create ${name} --size 1MiB --dir NEW`,
    usage,
    /name: got ".*", want 1 to 63 of a-z/,
  ]),
  ['volume create -x --size 1MiB --dir NEW', usage, /unknown flag -x/],
  ['volume create web --size 1MiB --dir D', conflict, /volume web: there is one already/],
  ...each('volume create x --size 1MiB --dir NEW', '--key-file', ['R/nothing'], notFound, /key file R\/nothing: ENOENT/),
  ...each(
    'volume create x --size 1MiB --dir NEW',
    '--key-file',
    ['R/empty', 'R/short', 'R/large'],
    usage,
    /key file R\/\w+: got \d+ bytes/,
  ),
  ...each('volume create x --size 1MiB --dir NEW', '--key-file', ['D'], usage, /key file D: EISDIR/),
  ...each(
    'volume create x --size 1MiB --dir NEW',
    '--compression',
    ['lz4', '-1', 'ZSTD'],
    usage,
    /--compression: got "\S+", want none or zstd/,
  ),
  ...each(
    'volume create x --size 1MiB --dir NEW',
    '--device',
    ['R/file', 'R/nothing', 'D', '/dev/null'],
    usage,
    /--device: got "\S+", want a block device/,
  ),
  ['volume create x --size 1MiB --dir D --device R/file', conflict, /--device: D has a store already/],
  ['volume create x --size 1MiB --dir R/file', usage, /R\/file: it is no folder/],
  ['volume create x --size 1MiB --dir R/file/x', usage, /R\/file: it is no folder/],
  ['volume create x --size 1MiB --dir /proc/x', notFound, /make folder \/proc\/x: ENOENT/],
  [`volume create x --size 1MiB --dir R/${LONG}`, usage, /the path is too long/],
  ['volume create x --size 1MiB --dir=', usage, /--dir: got nothing, want DIR/],
  ['volume create x --size 1MiB', usage, /got no --dir/],
  ['volume list --dir NEW', notFound, /NEW: there are no volumes/],
  ['volume list --dir R/file', notFound, /R\/file: there are no volumes/],
  ['volume list x --dir D', usage, /got 1 words/],
  ...each('volume resize web --dir D', '--size', ['-1', '0', '65TiB', '4097'], usage, /--size: got "\S+"/),
  ['volume resize web@s --size 1MiB --dir D', conflict, /web@s: it is a snapshot/],
  ['volume resize x --size 1MiB --dir D', notFound, /"x": there is none/],
  ['volume clone web@s a/b --dir D', usage, /name: got "a\/b"/],
  ['volume clone web x --dir D', conflict, /web: it is a volume, want a snapshot/],
  ['volume clone web@x x --dir D', notFound, /"web@x": there is none/],
  ['volume rename web a/b --dir D', usage, /name: got "a\/b"/],
  ['volume rename web safe --dir D', conflict, /volume safe: there is one already/],
  ['volume delete .image-12345678-x --dir D', notFound, /there is none/],
  ['volume delete web@s --dir D', usage, /web@s: it is a snapshot: typevisor snapshot delete web@s/],
  ...each(
    'volume check --dir D',
    '--rate',
    ['0', '-1', 'x', '1e3', '0.0001', '1KiB', '1048575', '9999T'],
    checkUsage,
    /--rate: got "\S+", want a size such as 512MiB from 1 MiB to /,
  ),
  ...each('volume check --dir D', '--key-file', ['R/empty', 'R/short', 'D'], checkUsage, /key file \S+: /),
  ['volume check --dir D --key-file R/nothing', checkFailed, /key file R\/nothing/],
  ['volume check --dir NEW', checkFailed, /NEW: there are no volumes/],
  ...each('volume rekey safe --new-key-file R/other --dir D', '--key-file', ['R/empty', 'D'], usage, /key file \S+: /),
  ...each('volume rekey safe --key-file R/key --dir D', '--new-key-file', ['R/empty', 'R/short', 'D'], usage, /key file \S+: /),
  ['volume rekey safe --key-file R/other --new-key-file R/key --dir D', denied, /safe: it is not encrypted with this key file/],
  ['volume rekey web --key-file R/key --new-key-file R/other --dir D', conflict, /web: it is not encrypted/],
  ['volume rekey safe --key-file R/key --dir D', usage, /--new-key-file: got nothing/],
  ['volume unlock safe --key-file R/other --dir D', denied, /not encrypted with this key file/],
  ['volume unlock web --key-file R/key --dir D', conflict, /it is not encrypted/],
  ['volume unlock safe --dir D', usage, /--key-file: got nothing/],
  ['volume unlock x --key-file R/key --dir U', unavailable, /nobody serves U/],
  ['volume stats x --dir U', unavailable, /nobody serves U/],
  ...each(
    'volume limit web --dir D',
    '--iops',
    ['-1', 'x', '1.5', '4294967296', 'nOne'],
    usage,
    /--iops: got "\S+", want a whole number from 0 to 4294967295/,
  ),
  ...each('volume limit web --dir D', '--bandwidth', ['-1', 'x', '99999999T'], usage, /--bandwidth: got "\S+", want a size/),
  ...each(
    'volume limit web --dir D',
    '--burst',
    ['-1', 'x', '1.5', '86401'],
    usage,
    /--burst: got "\S+", want a whole number from 0 to 86400/,
  ),
  ['volume limit web@s --iops 1 --dir D', conflict, /web@s: it is a snapshot/],
  ['volume lease grab web --dir D', usage, /volume lease: got "grab", want show/],
  ['volume lease acquire web --dir D', usage, /--holder: got nothing, want a UUID/],
  ...each(
    'volume lease acquire web --dir D',
    '--holder',
    ['x', '-1', HOLDER.replaceAll('-', '')],
    usage,
    /holder: got "\S+", want a UUID/,
  ),
  ...each(
    `volume lease acquire web --holder ${HOLDER} --dir D`,
    '--epoch',
    ['-1', 'x', '99999999999'],
    usage,
    /--epoch: got "\S+", want a whole number/,
  ),
  [`volume lease acquire web --holder ${HOLDER} --epoch 77 --dir D`, conflict, /epoch 77 is not in force yet/],
  [`volume lease hand-over web --epoch 0 --holder ${HOLDER} --next x --dir D`, usage, /--next: got "x"/],
  ['volume lease offer web --dir D', usage, /--epoch: got nothing/],
  ['volume import x R/nothing --dir NEW', notFound, /image: ENOENT/],
  ['volume import x D --dir NEW', usage, /image D: it is no file/],
  ['volume import x /dev/zero --dir NEW', usage, /image \/dev\/zero: it is no file/],
  ['volume import a/b R/raw --dir NEW', usage, /name: got "a\/b"/],
  ['volume import web R/raw --dir D', conflict, /volume web: there is one already/],
  ...each('volume import x R/raw --dir NEW', '--format', ['zip', '-1'], usage, /image format: got "\S+", want qcow2/),
  ['volume import x R/raw --compression lz4 --dir NEW', usage, /--compression: got "lz4", want none or zstd/],
  ['volume import x R/raw --key-file R/short --dir NEW', usage, /key file R\/short: got 3 bytes/],
  ['snapshot export web@s --compression lz4 --output R/out --dir D', usage, /--compression: got "lz4"/],
  ['volume export safe R/out --format raw --key-file R/other --dir D', denied, /not encrypted with this key file/],
  ['volume import x R/raw --format qcow2 --dir NEW', usage, /qcow2 image: got magic/],
  ['volume import x R/raw --with-backing=yes --dir NEW', usage, /--with-backing: got "yes", want no value/],
  ['volume import x R/raw --input R/raw --dir NEW', usage, /got FILE and --input/],
  ['volume import x --input R/raw --format raw --dir NEW', usage, /--format and --with-backing are of an image/],
  ['volume import x --input R/nothing --dir NEW', notFound, /ENOENT/],
  ['volume import x --input D --dir NEW', usage, /EISDIR/],
  ['volume import x --input R/raw --dir NEW', usage, /R\/raw is no exported snapshot; for an image: volume import x R\/raw\n/],
  ['volume import x --input R/empty --dir NEW', usage, /import of x: nothing came in/],
  ['volume import x --input R/short --dir NEW', usage, /it ends after 3 bytes, in the head/],
  ['volume import x --dir NEW', usage, /import of x: nothing came in/],
  ['volume import x --status --dir NEW', notFound, /NEW: there are no volumes/],
  ['volume import x --abort --dir D', notFound, /there is none under way/],
  ['volume import x --abort --status --dir D', usage, /--status and --abort stand alone/],
  ['volume import x R/raw --abort --dir D', usage, /--status and --abort stand alone/],
  ['volume import --dir D', usage, /got 0 words/],
  ['volume export web R/out --dir D', usage, /got no --format/],
  ['volume export web R/out --format zip --dir D', usage, /image format: got "zip"/],
  ['volume export web R/nothing/out --format raw --dir D', notFound, /R\/nothing\/out: ENOENT/],
  [`volume export web R/${LONG} --format raw --dir D`, usage, /want a name of 1 to \d+ bytes/],
  ['volume export web D --format raw --dir D', conflict, /file: D is there already/],
  ['volume export x R/out --format raw --dir D', notFound, /"x": there is none/],
  ['volume export safe R/out --format raw --dir D', conflict, /safe: it is encrypted and locked/],
  ...WRONG_NAMES.filter((name) => !/^-|^web:1$|^\.image/.test(name)).map((name): Case => [
    `snapshot create web ${name} --dir D`,
    usage,
    /name: got "web@.*", want 1 to 63/,
  ]),
  ['snapshot create web s --dir D', conflict, /snapshot web@s: there is one already/],
  ['snapshot create x s --dir D', notFound, /"x": there is none/],
  ['snapshot delete web --dir D', usage, /got "web", want VOLUME@NAME/],
  ['snapshot revert web web --dir D', conflict, /web: it is a volume/],
  ['snapshot diff web x --dir D', notFound, /"x": there is none/],
  ['snapshot export web --output R/out --dir D', usage, /web: it is a volume, which changes/],
  ['snapshot export web@s --from web --output R/out --dir D', usage, /web: it is a volume, which changes/],
  ['snapshot export web@s --from web@s --output R/out --dir D', usage, /it is the same snapshot, so there is nothing to export/],
  ['snapshot export web@s --from web@x --output R/out --dir D', notFound, /"web@x": there is none/],
  ...each(
    'snapshot export web@s --output R/out --dir D',
    '--resume-at',
    ['-4096', 'x', '4095', '33554432', '99999999999999999'],
    usage,
    /(--resume-at: got|got position) \S+, want/,
  ),
  ['snapshot export web@s --output R/raw --dir D', conflict, /--output: R\/raw is there already/],
  ['snapshot export web@s --output R/nothing/out --dir D', notFound, /--output R\/nothing\/out: ENOENT/],
  [`snapshot export web@s --output R/${LONG} --dir D`, usage, /--output: got "\S+", want a name of 1 to \d+ bytes/],
  ['nbd serve --port 0', usage, /want either --dir or --memory/],
  ...each('nbd serve --port 0', '--memory', ['-1', '0', 'x', '65TiB', '9999999T'], usage, /--memory: got "\S+", want a size/),
  ...each('nbd serve --memory 1MiB', '--port', ['-1', '65536', 'x', '1.5', '1e3'], usage, /--port: got "\S+", want 0 to 65535/),
  ['nbd serve --dir NEW --port PORT', conflict, /listen on 127.0.0.1:\d+: .*EADDRINUSE/],
  ['nbd serve --dir NEW --port 0 --host 203.0.113.9', usage, /listen on 203.0.113.9:0: .*EADDRNOTAVAIL/],
  ['nbd serve --memory 1MiB --socket R/s --host 127.0.0.1', usage, /want --socket or --host, not both/],
  ['nbd serve --memory 1MiB --port 0 --key-file R/key', usage, /--key-file unlocks volumes of --dir/],
  [`nbd serve --dir NEW --socket R/${LONG}`, usage, /got a path of \d+ bytes, want 1 to 107/],
  ...each('nbd serve --dir NEW', '--socket', ['R/file', 'D'], conflict, /there is something else, want a socket/),
  ['nbd serve --dir NEW --socket R/nothing/s', notFound, /listen on R\/nothing\/s: ENOENT/],
  ['nbd serve --dir NEW --socket R/d/nbd.sock', conflict, /another server answers there/],
  ['nbd serve --dir D --socket R/s', conflict, /D is in use by process \d+/],
  ['nbd serve --dir R/file --socket R/s', usage, /R\/file: it is no folder/],
  ['nbd serve --dir NEW --socket R/s --key-file R/nothing', notFound, /key file R\/nothing/],
  ...each('nbd serve --dir NEW --socket R/s', '--key-file', ['R/empty', 'R/short', 'D'], usage, /key file \S+: /),
]

/** As a user to whom permissions apply: where we are root, another one. */
const FORBIDDEN: readonly Case[] = [
  ['volume create x --size 1MiB --dir R/closed/x', denied, /R\/closed\/x.*EACCES/],
  ['volume create x --size 1MiB --dir R/closed', denied, /R\/closed\/lock: EACCES/],
  ['volume list --dir R/closed', denied, /EACCES/],
  ['volume check --dir R/closed', checkFailed, /EACCES/],
  ['volume create x --size 1MiB --dir R/open/x --key-file R/closed/key', denied, /key file R\/closed\/key: EACCES/],
  ['volume import x R/closed/raw --dir R/open/x', denied, /EACCES/],
  ['nbd serve --memory 1MiB --socket R/closed/s', denied, /listen on R\/closed\/s: EACCES/],
]

/** One process to its end; one that does not end is a failure. */
async function ended(words: readonly string[], as: { uid?: number; gid?: number }): Promise<{ code: unknown; said: string }> {
  const child = spawn(process.execPath, [MAIN, ...words], { stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000, ...as })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (said += part.toString()))
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  return { code: code ?? signal, said }
}

test('what an option cannot be is refused in one line that names it, with its exit code, and leaves nothing', async () => {
  const root = await temporaryFolder()
  const [served, unserved] = [join(root, 'd'), join(root, 'u')]
  const taken = createServer().listen(0, '127.0.0.1')
  try {
    await once(taken, 'listening')
    const { port } = taken.address() as AddressInfo
    const fill = (word: string, number: number): string =>
      word
        .replace(/^R(?=\/|$)/, root)
        .replace(/^NEW$/, join(root, `new-${number}`))
        .replace(/^D$/, served)
        .replace(/^U$/, unserved)
        .replace(/^PORT$/, String(port))
        .replaceAll('_', ' ')
    const files = {
      key: Buffer.alloc(32, 0xf3),
      other: 'another passphrase',
      empty: '',
      short: 'abc',
      file: 'x',
      raw: Buffer.alloc(8192, 1),
    }
    for (const [name, content] of Object.entries({ ...files, large: Buffer.alloc(70_000, 7) }))
      await writeFile(join(root, name), content)
    for (const words of [
      ['volume', 'create', 'web', '--size', '16MiB', '--dir', served],
      ['snapshot', 'create', 'web', 's', '--dir', served],
      ['volume', 'create', 'safe', '--size', '1.5MiB', '--key-file', join(root, 'key'), '--dir', served],
      ['volume', 'create', 'x', '--size', '1MiB', '--dir', unserved],
    ]) {
      const { code, said } = await run(words)
      assert.equal(code, 0, said)
    }
    await mkdir(join(root, 'closed'), { mode: 0o700 })
    await mkdir(join(root, 'open'))
    if (process.geteuid?.() === 0) await chmod(join(root, 'open'), 0o777)
    else await chmod(join(root, 'closed'), 0o000)
    await using server = typevisor(['nbd', 'serve', '--dir', served, '--socket', join(served, 'nbd.sock')])
    await server.says(/serving/)
    const look = async () => ({
      files: readdirSync(root, { recursive: true }).toSorted(),
      volumes: (await run(['volume', 'list', '--json', '--dir', served])).said,
    })
    const before = await look()
    const failures: string[] = []
    const refuse = async ([words, code, want]: Case, number: number, as: { uid?: number; gid?: number }): Promise<void> => {
      const found = await ended(
        words.split(' ').map((word) => {
          const [flag = '', ...value] = word.startsWith('--') ? word.split('=') : [word]
          return value.length > 0 ? `${flag}=${fill(value.join('='), number)}` : fill(word, number)
        }),
        as,
      )
      const said = found.said
        .replaceAll(served, 'D')
        .replaceAll(unserved, 'U')
        .replaceAll(join(root, `new-${number}`), 'NEW')
        .replaceAll(root, 'R')
      const isOneLine = /^typevisor: [^\n]+\n$/.test(said)
      if (found.code !== code || !want.test(said) || !isOneLine)
        failures.push(`${words}: got ${String(found.code)}, want ${code} and ${want}: ${said}`)
    }
    const waiting = [
      ...CASES.map((each) => [each, {}] as const),
      ...FORBIDDEN.map((each) => [each, process.geteuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {}] as const),
    ].entries()
    await Promise.all(
      Array.from({ length: IN_FLIGHT }, async () => {
        for (const [number, [one, as]] of waiting) await refuse(one, number, as)
      }),
    )
    assert.deepEqual(failures, [])
    assert.deepEqual(await look(), before, 'nothing is left')
  } finally {
    taken.close()
    await chmod(join(root, 'closed'), 0o700).catch(() => {})
    await rm(root, { recursive: true, force: true })
  }
})

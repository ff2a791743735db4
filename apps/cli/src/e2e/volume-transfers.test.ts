/** Diffs, streams and images of volumes from the command line, against QEMU's tools; what is cut, killed, wrong or hostile. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { MIB } from '@typevisor/base'
import { connectNbd } from '@typevisor/nbd'
import { processesOf, run, typevisor, until } from './child.ts'
import { temporaryFolder } from './harness.ts'

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url))

/** A folder of its own, gone at the end, and the command line on it. */
async function withFolder(work: (dir: string, cli: typeof command) => Promise<void>): Promise<void> {
  const dir = await temporaryFolder()
  try {
    await work(dir, command)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** Wants exit code 0. @returns what it said. */
async function command(...words: string[]): Promise<string> {
  const { code, said } = await run(words)
  assert.equal(code, 0, `${words.join(' ')}: ${said}`)
  return said
}
async function refused(want: RegExp, code: number, ...words: string[]): Promise<void> {
  const found = await run(words)
  assert.match(found.said, want)
  assert.equal(found.code, code, found.said)
}
async function tool(program: string, ...words: string[]): Promise<string> {
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (said += part.toString()))
  const [code] = (await once(child, 'close')) as [number]
  assert.equal(code, 0, `${program} ${words.join(' ')}: ${said}`)
  return said
}

/** Serves a folder while `work` runs; `write` puts bytes into a volume of it. */
async function serving(
  dir: string,
  work: (write: (name: string, offset: number, content: Uint8Array | number) => Promise<void>) => Promise<void>,
  ...more: string[]
): Promise<void> {
  const socketPath = join(dir, 'nbd.sock')
  await using child = typevisor(['nbd', 'serve', '--dir', dir, '--socket', socketPath, ...more])
  await child.says(/serving/)
  await work(async (name, offset, content) => {
    await using client = await connectNbd({ address: { socketPath }, exportName: name })
    if (typeof content === 'number') await client.trim(offset, content)
    else for (let at = 0; at < content.length; at += MIB) await client.write(offset + at, content.subarray(at, at + MIB))
    await client.flush()
  })
  await child.kill('SIGTERM')
}

const items = (said: string): { offset: number; lengthBytes: number; kind: string }[] =>
  (JSON.parse(said) as { items: { offset: number; lengthBytes: number; kind: string }[] }).items
const namesOf = async (dir: string): Promise<string[]> =>
  (JSON.parse(await command('volume', 'list', '--json', '--dir', dir)) as { items: { name: string }[] }).items
    .map(({ name }) => name)
    .toSorted()

/** As a raw image, which is then looked at. */
async function contentOf(dir: string, name: string): Promise<Buffer> {
  const path = join(dir, `content-${randomBytes(4).toString('hex')}`)
  await command('volume', 'export', name, path, '--format', 'raw', '--dir', dir)
  const content = await readFile(path)
  await rm(path)
  return content
}

test('a diff is the same through the server and without it, and says what is a hole now', () =>
  withFolder(async (dir, cli) => {
    const at = ['--dir', dir]
    await cli('volume', 'create', 'web', '--size', '1GiB', ...at)
    const want = [
      { offset: 4096, lengthBytes: 8192, kind: 'data' },
      { offset: 16 * MIB, lengthBytes: MIB, kind: 'hole' },
    ]
    await serving(dir, async (write) => {
      await write('web', 0, randomBytes(MIB))
      await write('web', 16 * MIB, randomBytes(2 * MIB))
      await cli('snapshot', 'create', 'web', 'one', ...at)
      await write('web', 4096, randomBytes(8192))
      await write('web', 16 * MIB, MIB)
      assert.deepEqual(items(await cli('snapshot', 'diff', 'web@one', 'web', '--json', ...at)), want)
      await cli('snapshot', 'create', 'web', 'two', ...at)
    })
    assert.deepEqual(items(await cli('snapshot', 'diff', 'web@one', 'web@two', '--json', ...at)), want)
    assert.deepEqual(items(await cli('snapshot', 'diff', 'web@two', 'web', '--json', ...at)), [])
    assert.match(await cli('snapshot', 'diff', 'web@two', 'web@one', ...at), /16777216 +1048576 +data/)
    await refused(/"web@three": there is none/, 3, 'snapshot', 'diff', 'web@one', 'web@three', ...at)
  }))

test('a snapshot goes from store to store through a pipe, and what differs after it', () =>
  withFolder(async (dir, cli) => {
    // The other's path is longer than a socket's may be.
    const [from, to] = [join(dir, 'from'), join(dir, 'to'.repeat(60))]
    const content = Buffer.concat([randomBytes(3 * MIB + 4096), Buffer.alloc(MIB), randomBytes(4 * MIB - 4096)])
    await cli('volume', 'create', 'web', '--size', '8MiB', '--dir', from)
    await serving(from, async (write) => {
      await write('web', 0, content)
      await cli('snapshot', 'create', 'web', 'one', '--dir', from)
      await write('web', 5 * MIB, content.fill(9, 5 * MIB, 5 * MIB + 4096).subarray(5 * MIB, 5 * MIB + 4096))
      await write('web', MIB, MIB)
      content.fill(0, MIB, 2 * MIB)
      await cli('snapshot', 'create', 'web', 'two', '--dir', from)
    })
    const pipe = (exported: string, name: string): Promise<string> =>
      tool(
        'sh',
        '-c',
        `"$0" "$1" snapshot export ${exported} --dir "$2" | "$0" "$1" volume import ${name} --dir "$3"`,
        process.execPath,
        MAIN,
        from,
        to,
      )
    await pipe('web@one', 'copy')
    const [increment, whole] = [join(dir, 'increment'), join(dir, 'whole')]
    await cli('snapshot', 'export', 'web@two', '--from', 'web@one', '--output', increment, '--dir', from)
    assert.ok((await readFile(increment)).length < 10_000, 'an increment has what differs')
    await refused(/increment is there already/, 4, 'snapshot', 'export', 'web@two', '--output', increment, '--dir', from)
    await refused(/it is a volume, which changes/, 2, 'snapshot', 'export', 'web', '--output', whole, '--dir', from)

    // Whatever is wrong with it, the volume is as it was.
    const good = await readFile(increment)
    const bad = Buffer.from(good)
    bad.writeUInt8(bad.readUInt8(600) ^ 4, 600)
    await writeFile(whole, bad)
    await refused(/checksum \w+, want \w+/, 2, 'volume', 'import', 'copy', '--input', whole, '--dir', to)
    await writeFile(whole, good.subarray(0, good.length - 20))
    await refused(/it ends after \d+ bytes/, 2, 'volume', 'import', 'copy', whole, '--dir', to)
    await refused(/want a volume whose newest snapshot is .* \(web@one\)/, 3, 'volume', 'import', 'other', increment, '--dir', to)
    assert.deepEqual(await namesOf(to), ['copy', 'copy@one'])
    assert.ok((await contentOf(to, 'copy')).equals(await contentOf(from, 'web@one')))

    await cli('volume', 'import', 'copy', increment, '--dir', to)
    assert.deepEqual(await namesOf(to), ['copy', 'copy@one', 'copy@two'])
    for (const name of ['copy', 'copy@two']) assert.ok((await contentOf(to, name)).equals(content), name)
    await refused(/copy@two: there is one already/, 4, 'volume', 'import', 'copy', '--input', increment, '--dir', to)
    // The same snapshot has the same id wherever it is.
    const idsOf = async (where: string, name: string): Promise<(string | undefined)[]> => {
      const { items: listed } = JSON.parse(await cli('snapshot', 'list', '--json', '--dir', where)) as {
        items: { name: string; id: string; createdAt: number }[]
      }
      return ['one', 'two'].map((tag) => listed.find((one) => one.name === `${name}@${tag}`)?.id)
    }
    assert.deepEqual(await idsOf(to, 'copy'), await idsOf(from, 'web'))
    // Backwards: the older one as what differs from the newer one.
    await rm(increment)
    await cli('snapshot', 'export', 'web@one', '--from', 'web@two', '--output', increment, '--dir', from)
    await refused(/copy@one: there is one already/, 4, 'volume', 'import', 'copy', increment, '--dir', to)
    await cli('snapshot', 'delete', 'copy@one', '--dir', to)
    await cli('volume', 'import', 'copy', increment, '--dir', to)
    for (const name of ['copy', 'copy@one']) assert.ok((await contentOf(to, name)).equals(await contentOf(from, 'web@one')), name)
    assert.equal(JSON.parse(await cli('volume', 'check', '--json', '--dir', to)).damage.length, 0)
  }))

test('an encrypted, compressed volume is written out as it reads; one that is locked is refused, and nothing is left of it', () =>
  withFolder(async (dir, cli) => {
    const [from, to, key] = [join(dir, 'from'), join(dir, 'to'), join(dir, 'key')]
    const at = ['--dir', from]
    const [increment, image] = [join(dir, 'increment'), join(dir, 'image.qcow2')]
    await writeFile(key, randomBytes(32))
    // Some of it packs, some does not.
    const content = Buffer.concat([Buffer.alloc(3 * MIB, 'a line that packs\n'), randomBytes(MIB), Buffer.alloc(4 * MIB)])
    await cli('volume', 'create', 'web', '--size', '8MiB', '--key-file', key, '--compression', 'zstd', ...at)
    await serving(
      from,
      async (write) => {
        await write('web', 0, content.subarray(0, 4 * MIB))
        await cli('snapshot', 'create', 'web', 'one', ...at)
        await cli('snapshot', 'export', 'web@one', '--output', join(dir, 'whole'), ...at)
        await write('web', 4096, content.fill(9, 4096, 8192).subarray(4096, 8192))
        await write('web', MIB, 512 * 1024)
        content.fill(0, MIB, MIB + 512 * 1024)
        await cli('snapshot', 'create', 'web', 'two', ...at)
        assert.ok((await contentOf(from, 'web')).equals(content))
        await cli('snapshot', 'export', 'web@two', '--from', 'web@one', '--output', increment, ...at)
      },
      '--key-file',
      key,
    )
    for (const path of [join(dir, 'whole'), increment]) await cli('volume', 'import', 'web', path, '--dir', to)
    assert.ok((await contentOf(to, 'web')).equals(content))
    await rm(increment)
    const locked = /web(@two)?: it is encrypted and locked, want its key file first \(--key-file FILE\)/
    const refuses = async (): Promise<void> => {
      await refused(locked, 4, 'snapshot', 'export', 'web@two', '--from', 'web@one', '--output', increment, ...at)
      await refused(locked, 4, 'volume', 'export', 'web', image, '--format', 'qcow2', ...at)
      // Which blocks differ is not what is locked: a unit as a whole.
      assert.deepEqual(items(await cli('snapshot', 'diff', 'web@one', 'web@two', '--json', ...at)), [
        { offset: 0, lengthBytes: 65_536, kind: 'data' },
        { offset: MIB, lengthBytes: 512 * 1024, kind: 'hole' },
      ])
    }
    await refuses()
    await serving(from, refuses)
    assert.deepEqual([existsSync(increment), existsSync(image)], [false, false])
    const { volumes } = JSON.parse(await cli('volume', 'usage', '--json', ...at)) as { volumes: { name: string }[] }
    assert.deepEqual(volumes.map(({ name }) => name).toSorted(), ['web', 'web@one', 'web@two'])
  }))

test('images and streams come into encrypted and compressed volumes, alone and through a server, and streams are compressed', () =>
  withFolder(async (dir, cli) => {
    const [from, to, key, other] = [join(dir, 'from'), join(dir, 'to'), join(dir, 'key'), join(dir, 'other')]
    const [raw, image, small, plain, increment] = ['raw', 'image.qcow2', 'small', 'plain', 'increment'].map((name) =>
      join(dir, name),
    ) as [string, string, string, string, string]
    await writeFile(key, randomBytes(32))
    await writeFile(other, randomBytes(32))
    const content = Buffer.concat([Buffer.alloc(6 * MIB, 'a line that packs\n'), randomBytes(MIB), Buffer.alloc(MIB)])
    await writeFile(raw, content)
    await tool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, image)
    const safe = ['--key-file', key, '--compression', 'zstd']
    const formsOf = async (where: string): Promise<Record<string, unknown>> => {
      const { items: listed } = JSON.parse(await cli('volume', 'list', '--json', '--dir', where)) as {
        items: { name: string; encryption: string; compression: string; storedBytes: number }[]
      }
      return Object.fromEntries(
        listed.map(({ name, encryption, compression, storedBytes }) => [name, [encryption, compression, storedBytes < 3 * MIB]]),
      )
    }
    const SAFE = ['locked', 'zstd', true]
    await cli('volume', 'import', 'web', image, ...safe, '--dir', from)
    assert.equal((await readFile(join(from, 'store'))).includes('that packs'), false)
    await cli('volume', 'import', 'packed', raw, '--format', 'raw', '--compression', 'zstd', '--dir', from)
    assert.deepEqual(await formsOf(from), { web: SAFE, packed: ['none', 'zstd', true] })
    // What is locked comes out for whoever has its key file.
    await refused(/it is encrypted and locked/, 4, 'volume', 'export', 'web', join(dir, 'no'), '--format', 'raw', '--dir', from)
    await refused(
      /not encrypted with this/,
      5,
      'volume',
      'export',
      'web',
      join(dir, 'no'),
      '--format',
      'raw',
      '--key-file',
      other,
      '--dir',
      from,
    )
    await cli('volume', 'export', 'web', join(dir, 'out'), '--format', 'vpc', '--key-file', key, '--dir', from)
    assert.match(await tool('qemu-img', 'compare', '-f', 'raw', '-F', 'vpc', raw, join(dir, 'out')), /Images are identical/)
    await cli('snapshot', 'create', 'web', 'one', '--dir', from)
    const exported = ['snapshot', 'export', 'web@one', '--key-file', key, '--dir', from]
    await cli(...exported, '--output', plain)
    await cli(...exported, '--compression', 'zstd', '--output', small)
    const [plainBytes, smallBytes] = [(await readFile(plain)).length, (await readFile(small)).length]
    assert.ok(plainBytes > 7 * MIB && smallBytes < 2 * MIB, `${plainBytes}, ${smallBytes}`)

    // One that is cut goes on, and only with what it was begun with.
    await writeFile(join(dir, 'cut'), (await readFile(small)).subarray(0, smallBytes - 1000))
    await refused(/it ends after \d+ bytes/, 2, 'volume', 'import', 'copy', join(dir, 'cut'), ...safe, '--dir', to)
    await refused(/import of copy: it is encrypted and locked, .*--key-file/, 4, 'volume', 'import', 'copy', small, '--dir', to)
    await refused(/not encrypted with this/, 5, 'volume', 'import', 'copy', small, '--key-file', other, '--dir', to)
    await refused(
      /got compression none, want zstd/,
      4,
      'volume',
      'import',
      'copy',
      small,
      '--key-file',
      key,
      '--compression',
      'none',
      '--dir',
      to,
    )
    await cli('volume', 'import', 'copy', small, ...safe, '--dir', to)
    assert.deepEqual(await formsOf(to), { copy: SAFE, 'copy@one': SAFE })
    // Through whoever serves.
    await serving(from, async () => {
      await cli('volume', 'import', 'served', image, ...safe, '--dir', from)
      assert.ok((await contentOf(from, 'served')).equals(content))
      await cli('volume', 'unlock', 'web', '--key-file', key, '--dir', from)
      await cli('volume', 'import', 'again', small, '--compression', 'zstd', '--dir', from)
      assert.ok((await contentOf(from, 'again@one')).equals(content))
      await cli('snapshot', 'create', 'web', 'two', '--dir', from)
      await cli(
        'snapshot',
        'export',
        'web@two',
        '--from',
        'web@one',
        '--compression',
        'zstd',
        '--output',
        increment,
        '--dir',
        from,
      )
    })
    await cli('volume', 'import', 'copy', increment, '--key-file', key, '--dir', to)
    await cli('volume', 'export', 'copy@two', join(dir, 'copy'), '--format', 'raw', '--key-file', key, '--dir', to)
    assert.ok((await readFile(join(dir, 'copy'))).equals(content))
    for (const where of [from, to])
      assert.deepEqual(JSON.parse(await cli('volume', 'check', '--key-file', key, '--json', '--dir', where)).damage, [])
  }))

test('an import whose process is killed, and its server too, goes on from where it was', () =>
  withFolder(async (dir, cli) => {
    const [from, to] = [join(dir, 'from'), join(dir, 'to')]
    const content = randomBytes(76 * MIB)
    await cli('volume', 'create', 'big', '--size', '96MiB', '--dir', from)
    await serving(from, async (write) => {
      await write('big', 10 * MIB, content)
      await cli('snapshot', 'create', 'big', 's', '--dir', from)
    })
    const stream = join(dir, 'stream')
    await cli('snapshot', 'export', 'big@s', '--output', stream, '--dir', from)
    const bytes = await readFile(stream)
    await cli('volume', 'create', 'other', '--size', '1MiB', '--dir', to)
    const status = async (): Promise<{ positionBytes: number; sizeBytes: number }> =>
      JSON.parse(await cli('volume', 'import', 'big', '--status', '--json', '--dir', to))
    const server = typevisor(['nbd', 'serve', '--dir', to, '--socket', join(dir, 's.sock')])
    try {
      await server.says(/serving/)
      const importing = spawn(process.execPath, [MAIN, 'volume', 'import', 'big', '--dir', to], {
        stdio: ['pipe', 'ignore', 'ignore'],
      })
      const over = once(importing, 'close')
      importing.stdin.on('error', () => {}) // it is killed
      importing.stdin.write(bytes.subarray(0, 72 * MIB))
      const reached = await until('the import is marked', async () => {
        const { code, said } = await run(['volume', 'import', 'big', '--status', '--json', '--dir', to])
        const position = code === 0 ? (JSON.parse(said) as { positionBytes: number }).positionBytes : 0
        return position > 0 ? position : null
      })
      assert.ok(reached >= 64 * MIB && reached < 86 * MIB, `${reached}`)
      await refused(/a connection uses it/, 4, 'volume', 'import', 'big', stream, '--dir', to)
      assert.deepEqual(await namesOf(to), ['other'])
      importing.kill('SIGKILL')
      await over
      await server.kill('SIGKILL')
      const { positionBytes, sizeBytes } = await status()
      assert.deepEqual([positionBytes, sizeBytes], [reached, 96 * MIB])
    } finally {
      await server.kill('SIGKILL')
    }
    assert.deepEqual(await namesOf(to), ['other'])
    const rest = join(dir, 'rest')
    const { positionBytes } = await status()
    const resume = (position: number): string[] => [
      'snapshot',
      'export',
      'big@s',
      '--resume-at',
      String(position),
      '--output',
      rest,
      '--dir',
      from,
    ]
    await cli(...resume(positionBytes + MIB))
    await refused(/the stream begins at \d+, want \d+ at most/, 4, 'volume', 'import', 'big', rest, '--dir', to)
    await rm(rest)
    await cli(...resume(positionBytes))
    assert.ok((await readFile(rest)).length < 24 * MIB, 'it has only the rest')
    await cli('volume', 'import', 'big', rest, '--dir', to)
    assert.ok((await contentOf(to, 'big@s')).subarray(10 * MIB, 86 * MIB).equals(content))
    await refused(/there is none under way/, 3, 'volume', 'import', 'big', '--status', '--dir', to)
    assert.equal(JSON.parse(await cli('volume', 'check', '--json', '--dir', to)).isRepaired, false)
    // One that is given up leaves nothing.
    await writeFile(rest, bytes.subarray(0, 20 * MIB))
    await refused(/go on with .*--resume-at \d+/, 2, 'volume', 'import', 'again', rest, '--dir', to)
    await cli('volume', 'import', 'again', '--abort', '--dir', to)
    await refused(/there is none under way/, 3, 'volume', 'import', 'again', '--status', '--dir', to)
    // One that is interrupted says what is kept.
    const importing = spawn(process.execPath, [MAIN, 'volume', 'import', 'again', '--dir', to], {
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    let said = ''
    for (const part of [importing.stdout, importing.stderr]) part.on('data', (content: Buffer) => (said += content.toString()))
    const over = once(importing, 'close')
    importing.stdin.on('error', () => {}) // it reads no more
    importing.stdin.write(bytes.subarray(0, 20 * MIB))
    await until('the import has begun', async () => {
      assert.equal(importing.exitCode, null, said)
      // Whoever asks before it has the folder would have it open itself, and keep it out.
      if (!(await readdir(to)).includes('control.sock')) return null
      return (await run(['volume', 'import', 'again', '--status', '--dir', to])).code === 0 ? true : null
    })
    importing.kill('SIGINT')
    const [code] = (await over) as [number]
    assert.match(said, /go on with .*--resume-at \d+.*\n.*interrupted/)
    assert.ok(code > 0, said)
    assert.match(
      await cli('volume', 'list', '--dir', to),
      /an import of again is not whole, .* of 96 MiB: `volume import again --status`/,
    )
    const listed = JSON.parse(await cli('volume', 'list', '--json', '--dir', to)) as { imports: { name: string }[] }
    assert.deepEqual(
      listed.imports.map(({ name }) => name),
      ['again'],
    )
  }))

const FORMATS = ['qcow2', 'raw', 'vmdk', 'vpc', 'vhdx', 'vdi'] as const

test("images in QEMU's formats come in and go out, and are what they were", () =>
  withFolder(async (dir, cli) => {
    const raw = join(dir, 'raw')
    // No whole number of blocks, holes in the middle.
    const content = Buffer.alloc(24 * MIB + 512)
    randomBytes(3 * MIB).copy(content, MIB + 1000)
    randomBytes(5000).copy(content, 20 * MIB)
    await writeFile(raw, content)
    for (const format of FORMATS) {
      const [image, back] = [join(dir, `in.${format}`), join(dir, `out.${format}`)]
      await tool('qemu-img', 'convert', '-f', 'raw', '-O', format, raw, image)
      await cli('volume', 'import', format, image, ...(format === 'raw' ? ['--format', 'raw'] : []), '--dir', dir)
      await cli('volume', 'export', format, back, '--format', format === 'vpc' ? 'vhd' : format, '--dir', dir)
      assert.match(await tool('qemu-img', 'compare', '-f', 'raw', '-F', format, raw, back), /Images are identical/)
    }
    assert.deepEqual(await namesOf(dir), FORMATS.toSorted())
    await refused(/is there already/, 4, 'volume', 'export', 'raw', raw, '--format', 'raw', '--dir', dir)
    await refused(/volume raw: there is one already/, 4, 'volume', 'import', 'raw', raw, '--dir', dir)
    await refused(/image format: got "qcow3", want qcow2/, 2, 'volume', 'import', 'x', raw, '--format', 'qcow3', '--dir', dir)
    // Through the server: of a volume that is written meanwhile, as it was at one moment.
    await serving(dir, async (write) => {
      const before = await contentOf(dir, 'qcow2')
      const busy = (async () => {
        for (let round = 1; round <= 20; round += 1) {
          const block = Buffer.alloc(4096, round)
          for (const place of [0, 10 * MIB]) await write('qcow2', place, block)
        }
      })()
      const during = await contentOf(dir, 'qcow2')
      await busy
      const [first, second] = [during.readUInt8(0), during.readUInt8(10 * MIB)]
      assert.ok(first === second || first === second + 1, `the one was written before the other: ${first}, ${second}`)
      assert.ok(during.subarray(4096, 10 * MIB).equals(before.subarray(4096, 10 * MIB)))
    })
    assert.deepEqual(await namesOf(dir), FORMATS.toSorted(), 'no snapshot of it is left')
  }))

test('an image that would have other files read is refused', () =>
  withFolder(async (dir, cli) => {
    const secret = join(dir, 'secret')
    await writeFile(secret, Buffer.alloc(MIB, 'a secret'))
    const [whole, names] = [
      join(dir, 'whole.vmdk'),
      ['backing.qcow2', 'json.qcow2', 'data.qcow2', 'flat.vmdk', 'parent.vmdk', 'capacity.vmdk'],
    ]
    const image = (name: string): string => join(dir, name)
    await tool('qemu-img', 'create', '-q', '-f', 'vmdk', whole, '1M')
    await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', secret, '-F', 'raw', image('backing.qcow2'))
    await tool('qemu-img', 'create', '-q', '-f', 'qcow2', image('json.qcow2'), '1M')
    await tool(
      'qemu-img',
      'rebase',
      '-u',
      '-F',
      'raw',
      '-b',
      `json:{"driver":"file","filename":"${secret}"}`,
      image('json.qcow2'),
    )
    await tool(
      'qemu-img',
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      `data_file=${image('data')},data_file_raw=on`,
      image('data.qcow2'),
      '1M',
    )
    await tool('qemu-img', 'create', '-q', '-f', 'vmdk', '-b', whole, '-F', 'vmdk', image('parent.vmdk'))
    const descriptor = `# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\nRW 2048 FLAT "${secret}" 0\n`
    await writeFile(image('flat.vmdk'), descriptor)
    // A head of the sparse kind that hands over to a descriptor in the file.
    const head = Buffer.alloc(4096)
    head.write('KDMV', 0, 'latin1')
    head.writeUInt32LE(1, 4)
    head.writeBigUInt64LE(1n, 28)
    head.writeBigUInt64LE(7n, 36)
    head.write(descriptor, 512, 'latin1')
    await writeFile(image('capacity.vmdk'), head)
    for (const name of names) {
      await refused(/another file|other files/, 5, 'volume', 'import', 'x', image(name), '--dir', dir)
    }
    assert.equal(existsSync(join(dir, 'store')), false, 'no store was made for it')
    await cli('volume', 'import', 'x', image('backing.qcow2'), '--with-backing', '--dir', dir)
    assert.ok((await contentOf(dir, 'x')).equals(await readFile(secret)))
    // A name is a name, whatever it looks like.
    await refused(
      /no such file|ENOENT/i,
      3,
      'volume',
      'import',
      'y',
      `json:{"driver":"file","filename":"${secret}"}`,
      '--dir',
      dir,
    )
    const odd = join(dir, 'raw,file.filename=x:y')
    await writeFile(odd, Buffer.alloc(8192, 'odd'))
    await cli('volume', 'import', 'y', odd, '--dir', dir)
    assert.ok((await contentOf(dir, 'y')).equals(await readFile(odd)))
  }))

test('an import or an export of an image that is killed leaves nothing under its name, and nothing for ever', () =>
  withFolder(async (dir, cli) => {
    const raw = join(dir, 'raw')
    await writeFile(raw, randomBytes(128 * MIB))
    await cli('volume', 'create', 'other', '--size', '1MiB', '--dir', dir)
    const usedBytes = async (): Promise<number> => JSON.parse(await cli('volume', 'usage', '--json', '--dir', dir)).usedBytes
    const empty = await usedBytes()
    const isAtWork = (): boolean => processesOf(dir).some(({ command: line }) => line.includes('qemu-img convert'))
    /** Ends a command while qemu-img works for it. One that was too quick for that is undone, and done again. */
    const ended = async (signal: 'SIGKILL' | 'SIGINT', words: string[], undo: () => Promise<unknown>): Promise<void> => {
      for (;;) {
        const child = typevisor([...words, '--dir', dir])
        let isOver = false
        void child.exited.then(() => (isOver = true))
        await until('qemu-img runs', () => isOver || isAtWork())
        await child.kill(signal)
        await until('qemu-img is gone', () => !isAtWork())
        if ((await child.exited) !== 0) return
        await undo()
      }
    }
    const importing = (): Promise<void> =>
      ended('SIGKILL', ['volume', 'import', 'x', raw, '--format', 'raw'], () => cli('volume', 'delete', 'x', '--dir', dir))
    const exporting = (signal: 'SIGKILL' | 'SIGINT'): Promise<void> =>
      ended(signal, ['volume', 'export', 'x', join(dir, 'out.qcow2'), '--format', 'qcow2'], () => rm(join(dir, 'out.qcow2')))
    // With nobody serving: what was begun is swept by whoever opens the folder next.
    await importing()
    assert.deepEqual(await namesOf(dir), ['other'])
    await serving(dir, async () => {
      await until('the space is given back', async () => (await usedBytes()) < empty + MIB)
      // And with a server that goes on.
      await importing()
      assert.deepEqual(await namesOf(dir), ['other'])
      await until('the space is given back', async () => (await usedBytes()) < empty + MIB)
    })
    await cli('volume', 'import', 'x', raw, '--format', 'raw', '--dir', dir)
    await exporting('SIGKILL')
    assert.equal(existsSync(join(dir, 'out.qcow2')), false)
    assert.deepEqual(await namesOf(dir), ['other', 'x'])
    // Ctrl-C leaves no part of a file either.
    for (const part of await readdir(dir)) if (part.includes('.part-')) await rm(join(dir, part))
    await exporting('SIGINT')
    assert.deepEqual(
      (await readdir(dir)).filter((name) => name.includes('out.qcow2')),
      [],
    )
  }))

test('an exported snapshot has its name when it is whole; Ctrl-C and errors leave nothing', () =>
  withFolder(async (dir, cli) => {
    const [raw, output] = [join(dir, 'raw'), join(dir, 'out.tvs')]
    await writeFile(raw, randomBytes(128 * MIB))
    await cli('volume', 'import', 'x', raw, '--format', 'raw', '--dir', dir)
    await cli('snapshot', 'create', 'x', 's', '--dir', dir)
    const exporting = ['snapshot', 'export', 'x@s', '--output', output, '--dir', dir]
    const written = async (): Promise<string[]> => (await readdir(dir)).filter((name) => name.includes('out.tvs'))
    // One that was too quick for Ctrl-C is done again.
    for (let code: unknown = 0; code === 0; await rm(output, { force: true })) {
      const child = typevisor(exporting)
      let isOver = false
      void child.exited.then(() => (isOver = true))
      const first = await until('it is being written', async () => (await written())[0] ?? (isOver && 'out.tvs'))
      await child.kill('SIGINT')
      code = await child.exited
      if (code === 0) continue
      assert.match(first, /^\.out\.tvs\.part-/)
      assert.match(child.said(), /interrupted/)
      assert.deepEqual([code, await written()], [1, []])
    }
    await refused(/got position/, 2, ...exporting, '--resume-at', String(256 * MIB))
    assert.deepEqual(await written(), [])
    await cli(...exporting)
    assert.deepEqual(await written(), ['out.tvs'])
  }))

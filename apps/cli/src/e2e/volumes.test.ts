/** Volumes with no platform: the command line on a folder, served and not. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdir, open, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { Fault } from '@typevisor/base'
import { connectNbd, type NbdClient } from '@typevisor/nbd'
import { run, typevisor } from './child.ts'
import { temporaryFolder } from './harness.ts'

const json = (said: string): unknown => JSON.parse(said.trim().split('\n').at(-1) ?? '')

test('volumes and snapshots are made on a folder, through its server while it is served, and are there afterwards', async () => {
  const dir = await temporaryFolder()
  const at = ['--dir', dir]
  try {
    assert.equal((await run(['volume', 'list', ...at])).code, 3, 'there is none yet')
    assert.equal((await run(['volume', 'create', 'web', '--size', '1GiB', ...at])).code, 0)
    {
      await using child = typevisor(['nbd', 'serve', ...at, '--socket', join(dir, 'nbd.sock')])
      await child.says(/serving nbd\+unix:\/\/\/\?socket=/)
      assert.equal((await run(['snapshot', 'create', 'web', 'monday', ...at])).code, 0)
      assert.equal((await run(['volume', 'clone', 'web@monday', 'copy', ...at])).code, 0)
      const second = await run(['nbd', 'serve', ...at, '--socket', join(dir, 'other.sock')])
      assert.equal(second.code, 4)
      assert.match(second.said, /in use by process/)
      process.kill(child.pid, 'SIGKILL')
      await child.exited
    }
    const listed = json((await run(['volume', 'list', '--json', ...at])).said) as {
      items: { name: string; parent: string | null }[]
    }
    assert.deepEqual(
      listed.items.map(({ name, parent }) => [name, parent]),
      [
        ['copy', 'web@monday'],
        ['web', 'web@monday'],
        ['web@monday', null],
      ],
    )
    assert.equal((await run(['snapshot', 'delete', 'web@monday', ...at])).code, 0)
    assert.equal((await run(['volume', 'delete', 'nothing', ...at])).code, 3)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

test('a byte that rots is named by check, and never served', async () => {
  const dir = await temporaryFolder()
  const at = ['--dir', dir]
  try {
    assert.equal((await run(['volume', 'create', 'web', '--size', '16MiB', ...at])).code, 0)
    const words = Buffer.from('a block that nobody else has. ').toString()
    const socketPath = join(dir, 'nbd.sock')
    const serve = async (work: (client: NbdClient) => Promise<void>): Promise<void> => {
      await using child = typevisor(['nbd', 'serve', ...at, '--socket', socketPath])
      await child.says(/serving/)
      await using client = await connectNbd({ address: { socketPath }, exportName: 'web' })
      await work(client)
    }
    await serve(async (client) => {
      await client.write(8 * 4096, Buffer.alloc(4096, words))
      await client.write(9 * 4096, Buffer.alloc(4096, 'another'))
      await client.flush()
    })
    assert.deepEqual([(await run(['volume', 'check', ...at])).code, (await run(['volume', 'check', ...at])).code], [0, 0])
    const path = join(dir, 'store')
    const store = await readFile(path)
    const place = store.indexOf(Buffer.alloc(4096, words))
    assert.ok(place > 0)
    store.writeUInt8(store.readUInt8(place + 100) ^ 1, place + 100)
    await writeFile(path, store)
    const { code, said } = await run(['volume', 'check', ...at])
    assert.equal(code, 2)
    assert.match(said, /web at 32768: block \d+ has checksum/)
    await serve(async (client) => {
      const content = new Uint8Array(4096)
      await assert.rejects(client.read(8 * 4096, content), (error) => error instanceof Fault && error.code === 'failed')
      await client.read(9 * 4096, content)
      assert.ok(Buffer.from(content).equals(Buffer.alloc(4096, 'another')))
      // What is written anew is whole again.
      await client.write(8 * 4096, content)
    })
    assert.equal((await run(['volume', 'check', ...at])).code, 0)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

test('an encrypted volume is served to who has its key file, told to others, and nothing of it is in the store in clear', async () => {
  const dir = await temporaryFolder()
  const at = ['--dir', dir]
  const [key, other] = [join(dir, 'key'), join(dir, 'passphrase')]
  const socketPath = join(dir, 'nbd.sock')
  const words = 'a word that nobody may read. '
  const formOf = async (): Promise<unknown> => {
    const { items } = json((await run(['volume', 'list', '--json', ...at])).said) as {
      items: { encryption: string; compression: string; storedBytes: number }[]
    }
    return items.map(({ encryption, compression, storedBytes }) => [encryption, compression, storedBytes])
  }
  const connect = () => connectNbd({ address: { socketPath }, exportName: 'web' })
  try {
    await writeFile(key, randomBytes(32))
    await writeFile(other, 'correct horse battery staple\n')
    const made = await run(['volume', 'create', 'web', '--size', '16MiB', '--key-file', key, '--compression', 'zstd', ...at])
    assert.equal(made.code, 0, made.said)
    assert.deepEqual(await formOf(), [['locked', 'zstd', 0]])
    const unserved = await run(['volume', 'unlock', 'web', '--key-file', key, ...at])
    assert.equal(unserved.code, 6)
    assert.match(unserved.said, /nobody serves .*: nbd serve --key-file/)
    {
      await using child = typevisor(['nbd', 'serve', ...at, '--socket', socketPath])
      await child.says(/locked: web/)
      await child.says(/serving/)
      assert.equal((await stat(join(dir, 'control.sock'))).mode & 0o777, 0o600)
      await assert.rejects(connect(), /web: it is encrypted and locked/)
      const wrong = await run(['volume', 'unlock', 'web', '--key-file', other, ...at])
      assert.equal(wrong.code, 5)
      assert.match(wrong.said, /web: it is not encrypted with this key file/)
      assert.match(
        (await run(['volume', 'check', '--key-file', other, ...at])).said,
        /no locked volume has its key from this file/,
      )
      assert.equal((await run(['volume', 'unlock', 'web', '--key-file', key, ...at])).code, 0)
      assert.equal((await run(['volume', 'unlock', 'web', '--key-file', other, ...at])).code, 5, 'also when it is unlocked')
      assert.match((await run(['volume', 'unlock', 'web', '--key-file', key, ...at])).said, /^web is unlocked already\n$/)
      await using client = await connect()
      await client.write(0, Buffer.alloc(65_536, words))
      await client.flush()
      assert.deepEqual(await formOf(), [['unlocked', 'zstd', 4096]])
      assert.match((await run(['volume', 'list', ...at])).said, /encrypted zstd/)
      assert.equal((await run(['volume', 'rekey', 'web', '--key-file', key, '--new-key-file', other, ...at])).code, 0)
      process.kill(child.pid, 'SIGKILL')
      await child.exited
    }
    assert.ok(!(await readFile(join(dir, 'store'))).includes('that nobody may'))
    const locked = await run(['volume', 'check', ...at])
    assert.equal(locked.code, 0)
    assert.match(locked.said, /only checksums are proven: web/)
    const checked = await run(['volume', 'check', '--json', '--key-file', other, ...at])
    assert.deepEqual((json(checked.said) as { locked: string[] }).locked, [])
    await using child = typevisor(['nbd', 'serve', ...at, '--socket', socketPath, '--key-file', key, '--key-file', other])
    await child.says(/no locked volume has its key from this file/)
    await child.says(/serving/)
    await using client = await connect()
    const content = new Uint8Array(65_536)
    await client.read(0, content)
    assert.ok(Buffer.from(content).equals(Buffer.alloc(65_536, words)))
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

test('a check mends what it can, tells a script by its exit code, and works beside the load where the folder is served', async () => {
  const dir = await temporaryFolder()
  const at = ['--dir', dir]
  try {
    assert.equal((await run(['volume', 'create', 'web', '--size', '16MiB', ...at])).code, 0)
    const path = join(dir, 'store')
    const damage = async (...blocks: number[]): Promise<void> => {
      await using store = await open(path, 'r+')
      for (const block of blocks) {
        const { buffer } = await store.read(Buffer.alloc(1), 0, 1, block * 4096 + 100)
        await store.write(Uint8Array.of(buffer.readUInt8(0) ^ 1), 0, 1, block * 4096 + 100)
      }
    }
    // Both homes of the table of free blocks, behind four superblocks and a journal of 64 MiB.
    await damage(16_388, 16_389)
    const refused = await run(['volume', 'list', ...at])
    assert.equal(refused.code, 1)
    assert.match(refused.said, /table of free blocks, group 0: .*volume check makes it anew/)
    const mended = await run(['volume', 'check', ...at])
    assert.equal(mended.code, 1)
    assert.match(mended.said, /^mended: .*1 tables made anew/m)
    assert.equal((await run(['volume', 'check', ...at])).code, 0)
    {
      const socketPath = join(dir, 'nbd.sock')
      await using child = typevisor(['nbd', 'serve', ...at, '--socket', socketPath])
      await child.says(/serving/)
      await using client = await connectNbd({ address: { socketPath }, exportName: 'web' })
      const content = Buffer.alloc(1024 * 1024, 'something to be read again')
      await client.write(0, content)
      await client.flush()
      const sound = await run(['volume', 'check', '--rate', '64MiB', '--json', ...at])
      assert.deepEqual([sound.code, (json(sound.said) as { dataCount: number }).dataCount >= 256], [0, true])
      await damage(16_388 + (await readFile(path)).subarray(16_388 * 4096).indexOf(content.subarray(0, 4096)) / 4096)
      const found = await run(['volume', 'check', ...at])
      assert.equal(found.code, 2)
      assert.match(found.said, /web at 0: block \d+ has checksum/)
    }
    // All superblocks: there is nothing to go by.
    await damage(0, 1, 2, 3)
    const lost = await run(['volume', 'check', ...at])
    assert.equal(lost.code, 2)
    assert.match(lost.said, /^damaged: store: none of the four superblocks is whole, .*put a copy of its file back.*\n$/)
    const kept = await readFile(path)
    assert.equal((await run(['volume', 'check', '--json', ...at])).code, 2)
    assert.ok(kept.equals(await readFile(path)), 'a check changes nothing of it')
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

test('a check that cannot be done is not taken for what one finds, and a diff of nothing says nothing', async () => {
  const dir = await temporaryFolder()
  try {
    assert.equal((await run(['volume', 'check'])).code, 16)
    assert.equal((await run(['volume', 'check', '--dir', join(dir, 'none')])).code, 8)
    await mkdir(join(dir, 'odd', 'store'), { recursive: true })
    const odd = await run(['volume', 'check', '--dir', join(dir, 'odd')])
    assert.deepEqual([odd.code, /damage/.test(odd.said)], [8, false], odd.said)
    assert.equal((await run(['volume', 'create', 'web', '--size', '1MiB', '--dir', dir])).code, 0)
    const diff = await run(['snapshot', 'diff', 'web', 'none', '--json', '--dir', dir])
    assert.deepEqual([diff.code, diff.said.includes('items')], [3, false], diff.said)
    const same = await run(['snapshot', 'diff', 'web', 'web', '--json', '--dir', dir])
    assert.deepEqual(JSON.parse(same.said), { items: [], changedBytes: 0 })
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

test('wrong words are told with what is wanted', async () => {
  const wrong = async (words: string[], want: RegExp) => {
    const { code, said } = await run(words)
    assert.equal(code, 2)
    assert.match(said, want)
  }
  await wrong(['volume', 'crate', 'x'], /did you mean create/)
  await wrong(['volume', 'create', 'x', '--size', '1GiB'], /got no --dir/)
  const dir = await temporaryFolder()
  await wrong(['volume', 'create', 'x', '--dir', dir, '--size', 'much'], /size: got "much"/)
  await wrong(
    ['volume', 'create', 'x', '--dir', dir, '--size', '1MiB', '--compression', 'zip'],
    /--compression: got "zip", want none or zstd/,
  )
  await wrong(['volume', 'rekey', 'x', '--dir', dir], /--key-file: got nothing/)
  await rm(dir, { recursive: true, force: true })
  await wrong(['nbd', 'serve', '--memory', '1GiB', '--port', '99999'], /--port: got "99999"/)
})

test('the quick start of the docs works', async () => {
  const docs = await readFile(fileURLToPath(new URL('../../../../docs/volumes.md', import.meta.url)), 'utf8')
  const [, block = ''] = /## Quick start\n\n```\n([^]*?)```/.exec(docs) ?? []
  const dir = await temporaryFolder()
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rm(dir, { recursive: true, force: true }))
  const lines = block.trim().split('\n')
  assert.equal(lines.length, 5)
  for (const line of lines) {
    const words = line.replace(/( &)?\s+#.*$/, '').replaceAll('./disks', dir)
    const [program, ...rest] = words.split(' ')
    if (program !== './typevisor') await promisify(execFile)('sh', ['-c', words])
    else if (rest[0] === 'nbd') await stack.use(typevisor(rest)).says(/serving/)
    else {
      const { code, said } = await run(rest)
      assert.equal(code, 0, said)
    }
  }
  assert.match((await run(['volume', 'list', '--dir', dir])).said, /^web [^]*^web@monday [^]*^web-2 /m)
})

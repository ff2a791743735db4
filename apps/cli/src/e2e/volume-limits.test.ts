/** Limits, statistics, warnings and leases of volumes from the command line, on a folder that is served. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdir, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Fault } from '@typevisor/base'
import { connectNbd, type NbdClient } from '@typevisor/nbd'
import { OPERATIONS, type VolumeStatisticsReport, type VolumeUsage } from '@typevisor/storage'
import { run, typevisor } from './child.ts'
import { temporaryFolder } from './harness.ts'

const json = (said: string): unknown => JSON.parse(said.trim().split('\n').at(-1) ?? '')

interface Served {
  readonly at: readonly string[]
  readonly socketPath: string
  readonly child: ReturnType<typeof typevisor>
  /** What a command said that ended well. */
  command(...words: readonly string[]): Promise<string>
  client(exportName: string): Promise<NbdClient>
}

/** A volume `web` of 64 MiB, served. */
async function withServer(work: (served: Served) => Promise<void>): Promise<void> {
  const dir = await temporaryFolder()
  const at = ['--dir', dir]
  const command = async (...words: readonly string[]): Promise<string> => {
    const { code, said } = await run([...words, ...at])
    assert.equal(code, 0, said)
    return said
  }
  try {
    await command('volume', 'create', 'web', '--size', '64MiB')
    const socketPath = join(dir, 'nbd.sock')
    await using child = typevisor(['nbd', 'serve', ...at, '--socket', socketPath])
    await child.says(/serving/)
    const client = (exportName: string) => connectNbd({ address: { socketPath }, exportName })
    await work({ at, socketPath, child, command, client })
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

test('a limit holds while a volume is in use, goes when it is taken off, and outlives the server', async () => {
  await withServer(async ({ at, child, command, client }) => {
    assert.match(await command('volume', 'limit', 'web'), /web: no limit/)
    await using web = await client('web')
    assert.match(
      await command('volume', 'limit', 'web', '--iops', '20', '--bandwidth', '50MiB', '--burst', '0'),
      /web: 20 operations\/s, 50 MiB\/s/,
    )
    const begin = performance.now()
    for (let index = 0; index < 13; index += 1) await web.write(index * 4096, new Uint8Array(4096))
    const tookMs = performance.now() - begin
    assert.ok(tookMs > 450, `13 writes at 20 a second took ${tookMs} ms, want 12 times 50 less a burst of 100 at least`)
    // At a byte a second the second write would wait for an hour.
    await command('volume', 'limit', 'web', '--iops', 'none', '--bandwidth', '1')
    const writes = [0, 1].map((index) => web.write(index * 4096, new Uint8Array(4096)))
    await command('volume', 'limit', 'web', '--bandwidth', 'none')
    await Promise.all(writes)
    await command('volume', 'limit', 'web', '--iops', '500', '--bandwidth', '1MiB/s', '--burst', '10')
    process.kill(child.pid, 'SIGKILL')
    await child.exited
    assert.deepEqual((json((await run(['volume', 'limit', 'web', '--json', ...at])).said) as { limits: unknown }).limits, {
      iopsMax: 500,
      bytesPerSecondMax: 1024 * 1024,
      burstSeconds: 10,
    })
  })
})

test('statistics tell what a served volume has done; where nobody serves, there are none', async () => {
  await withServer(async ({ at, child, command, client }) => {
    await using web = await client('web')
    for (let index = 0; index < 20; index += 1) await web.write(index * 4096, new Uint8Array(4096))
    for (let index = 0; index < 30; index += 1) await web.read(index * 4096, new Uint8Array(4096))
    await web.flush()
    await web.trim(0, 8192)
    const { operations, connectionCount } = json(await command('volume', 'stats', 'web', '--json')) as VolumeStatisticsReport
    assert.deepEqual(
      OPERATIONS.map((each) => [each, operations[each].count, operations[each].bytes, operations[each].errorCount]),
      [
        ['read', 30, 30 * 4096, 0],
        ['write', 20, 20 * 4096, 0],
        ['flush', 1, 0, 0],
        ['trim', 1, 8192, 0],
        ['zero', 0, 0, 0],
      ],
    )
    assert.equal(connectionCount, 1)
    for (const each of ['read', 'write', 'flush', 'trim'] as const) {
      const { p50Ns, p99Ns, maxNs } = operations[each].latency
      assert.ok(p50Ns > 0 && p50Ns <= p99Ns && p99Ns <= maxNs, each)
    }
    const picture = await command('volume', 'stats', 'web')
    assert.match(picture, /web: 1 connection, 0 under way/)
    assert.match(picture, /writes +20 +80 KiB +0/)
    assert.match(picture, /reads by how long they took\n {2}below .*█/)
    process.kill(child.pid, 'SIGKILL')
    await child.exited
    const { code, said } = await run(['volume', 'stats', 'web', ...at])
    assert.match(said, /nobody serves .*: statistics are those of the server/)
    assert.notEqual(code, 0)
  })
})

test('usage tells what is used and available, and what each volume has of its own', async () => {
  await withServer(async ({ command, client }) => {
    await using web = await client('web')
    await web.write(0, new Uint8Array(1024 * 1024).fill(1))
    await command('snapshot', 'create', 'web', 'monday')
    await command('volume', 'clone', 'web@monday', 'copy')
    await web.write(0, new Uint8Array(256 * 1024).fill(2))
    const usage = json(await command('volume', 'usage', '--json')) as VolumeUsage
    const own = Object.fromEntries(usage.volumes.map(({ name, ownBytes }) => [name, ownBytes]))
    // Its blocks, its leaf and its root's nodes above it.
    assert.ok((own['web'] ?? 0) >= 256 * 1024 && (own['web'] ?? 0) <= 256 * 1024 + 4 * 4096, `got ${own['web']}`)
    assert.deepEqual([own['copy'], own['web@monday']], [0, 0])
    assert.equal(usage.capacityBytes, usage.usedBytes + usage.availableBytes)
    const host = await statfs('/tmp')
    assert.ok(usage.capacityBytes <= host.blocks * host.bsize || usage.limitedBy === 'store')
    assert.match(
      await command('volume', 'usage'),
      /used .* of .*%\)\navailable .* would be full first[^]*copy +volume +64 MiB +0 B/,
    )
  })
})

test('whoever serves a store says when the file system below it fills', async (t) => {
  const folder = await temporaryFolder()
  const socketPath = join(folder, 'nbd.sock')
  const dir = join(folder, 'volumes')
  try {
    await mkdir(dir)
    // A file system of its own, of 200 MiB, which goes with the process; 64 of them are the journal's.
    const script = [
      'mount -t tmpfs -o size=200m none "$0"',
      '"$2" "$3" volume create web --size 1GiB --dir "$0"',
      'exec "$2" "$3" nbd serve --dir "$0" --socket "$1"',
    ].join(' && ')
    const unshare = ['unshare', '--map-root-user', '--mount']
    if (spawnSync('unshare', [...unshare.slice(1), 'true']).status !== 0)
      return t.skip(`no mount namespace can be made here (${unshare.join(' ')})`)
    const main = fileURLToPath(new URL('../main.ts', import.meta.url))
    await using child = typevisor([dir, socketPath, process.execPath, main], {}, [...unshare, 'sh', '-c', script])
    await child.says(/serving/)
    await using web = await connectNbd({ address: { socketPath }, exportName: 'web' })
    const fill = async (fromMib: number, toMib: number): Promise<void> => {
      for (let mib = fromMib; mib < toMib; mib += 1) await web.write(mib * 2 ** 20, new Uint8Array(2 ** 20).fill(mib))
    }
    await fill(0, 50)
    assert.doesNotMatch(child.said(), /store\.fills/)
    await fill(50, 104)
    await child.says(/store\.fills.*host.*80/)
    await fill(104, 119)
    await child.says(/store\.fills.*host.*90/)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

test('a leased volume is written by its holder alone, QEMU’s tools included, and by the next one after a hand-over', async () => {
  const [source, target] = ['11111111-0000-4000-8000-000000000000', '22222222-0000-4000-8000-000000000000']
  await withServer(async ({ at, child, command, client, socketPath }) => {
    const lease = (...words: readonly string[]) => command('volume', 'lease', ...words)
    // Writes as QEMU does; its exit code tells whether it could.
    const qemuWrites = (exportName: string, pattern: number): boolean => {
      const { status } = spawnSync('qemu-io', [
        ...['-f', 'raw', '-c', `write -P ${pattern} 0 4096`],
        `nbd+unix:///${exportName}?socket=${socketPath}`,
      ])
      return status === 0
    }
    await using anybody = await client('web')
    await anybody.write(0, new Uint8Array(4096).fill(1))
    assert.match(await lease('acquire', 'web', '--holder', source), /leased by 11111111-.* in epoch 1; open web:1 to write/)
    await assert.rejects(anybody.write(0, new Uint8Array(4096)), (error) => error instanceof Fault && error.code === 'forbidden')
    assert.deepEqual([qemuWrites('web', 7), qemuWrites('web:1', 2), qemuWrites('web:2', 7)], [false, true, false])
    assert.match(await command('volume', 'check'), /sound/)
    assert.match(await lease('offer', 'web', '--epoch', '1'), /in epoch 1; the next one opens web:2 to write/)
    assert.deepEqual([qemuWrites('web:1', 3), qemuWrites('web:2', 7)], [true, false])
    await lease('hand-over', 'web', '--epoch', '1', '--next', '2', '--holder', target)
    assert.deepEqual([qemuWrites('web:1', 7), qemuWrites('web:2', 4)], [false, true])
    const refused = await run(['volume', 'lease', 'acquire', 'web', '--holder', source, ...at])
    assert.match(refused.said, /web: leased in epoch 2; want it released, handed over, or that epoch named to take it over/)
    assert.equal(refused.code, 4)
    process.kill(child.pid, 'SIGKILL')
    await child.exited
    assert.match(await lease('show', 'web'), /leased by 22222222-.* in epoch 2/)
    assert.match(await lease('acquire', 'web', '--holder', source, '--epoch', '2'), /in epoch 3/)
    assert.match(await lease('release', 'web', '--epoch', '3'), /nobody's, in epoch 4; open web to write/)
  })
})

test('wrong words are told with what is wanted', async () => {
  const dir = await temporaryFolder()
  try {
    assert.equal((await run(['volume', 'create', 'web', '--size', '1MiB', '--dir', dir])).code, 0)
    const wrong = async (words: readonly string[], want: RegExp, wantCode = 2): Promise<void> => {
      const { code, said } = await run(['volume', ...words, '--dir', dir])
      assert.match(said, want)
      assert.equal(code, wantCode, said)
    }
    await wrong(['limit', 'web', '--iops', 'many'], /--iops: got "many", want a whole number from 0 to 4294967295, or none/)
    await wrong(['limit', 'web', '--bandwidth', 'fast'], /--bandwidth: got "fast", want a size/)
    await wrong(['limit', 'web', '--iops', '5000000000'], /--iops: got "5000000000", want a whole number from 0 to 4294967295/)
    await wrong(['limit', 'wob', '--iops', '5'], /there is none/, 3)
    await wrong(['lease', 'take', 'web'], /volume lease: got "take", want show, acquire, offer, hand-over or release/)
    await wrong(['lease', 'acquire', 'web'], /--holder: got nothing/)
    await wrong(['lease', 'acquire', 'web', '--holder', 'me'], /holder: got "me", want a UUID/)
    await wrong(['lease', 'offer', 'web', '--epoch', 'x'], /--epoch: got "x", want a whole number/)
    await wrong(['create', 'x', '--size', '1MiB', '--iops', '5'], /unknown flag --iops/)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

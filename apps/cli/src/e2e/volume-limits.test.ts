/** Limits, statistics, warnings and leases of volumes from the command line, on a folder that is served. */
import assert from 'node:assert/strict'
import { rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { connectNbd, type NbdClient } from '@typevisor/nbd'
import { OPERATIONS, type VolumeStatisticsReport, type VolumeUsage } from '@typevisor/storage'
import { run, typevisor } from './child.ts'
import { temporaryFolder } from './harness.ts'

const json = (said: string): unknown => JSON.parse(said.trim().split('\n').at(-1) ?? '')

interface Served {
  readonly at: readonly string[]
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
    await work({ at, child, command, client })
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

test('wrong limits are told with what is wanted', async () => {
  const dir = await temporaryFolder()
  try {
    assert.equal((await run(['volume', 'create', 'web', '--size', '1MiB', '--dir', dir])).code, 0)
    const wrong = async (words: readonly string[], want: RegExp, wantCode = 2): Promise<void> => {
      const { code, said } = await run(['volume', ...words, '--dir', dir])
      assert.match(said, want)
      assert.equal(code, wantCode, said)
    }
    await wrong(['limit', 'web', '--iops', 'many'], /--iops: got "many", want a whole number, or none/)
    await wrong(['limit', 'web', '--bandwidth', 'fast'], /size: got "fast"/)
    await wrong(
      ['limit', 'web', '--iops', '5000000000'],
      /iopsMax: got 5000000000, want a whole number from 0 \(no limit\) to 4294967295/,
    )
    await wrong(['limit', 'wob', '--iops', '5'], /there is none/, 3)
    await wrong(['create', 'x', '--size', '1MiB', '--iops', '5'], /unknown flag --iops/)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

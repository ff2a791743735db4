import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as connectTcp } from 'node:net'
import { test } from 'node:test'
import { Fault, type FaultCode } from '@typevisor/base'
import { realClock } from '@typevisor/runtime-node'
import type { MigrationStream } from '@typevisor/toolstack'
import { agentLinks } from './links.ts'

const isFault = (code: FaultCode) => (error: unknown) => error instanceof Fault && error.code === code
const links = agentLinks({ address: '127.0.0.1', clock: realClock() })

async function all({ readable }: MigrationStream): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for await (const part of readable) parts.push(part)
  return Buffer.concat(parts)
}

test('a stream has its channel, carries both ways, and what was written before its end arrives', async () => {
  const taken = Promise.withResolvers<[string, MigrationStream]>()
  const listener = await links.listen((...found) => taken.resolve(found))
  try {
    const near = await links.connect(listener.offer, 'memory')
    const [channel, far] = await taken.promise
    assert.equal(channel, 'memory')
    const content = Buffer.alloc(5_000_000, 'memory')
    const [there] = await Promise.all([all(far), near.write(content).then(() => near.end())])
    assert.ok(there.equals(content))
    await far.write(Buffer.from('back'))
    await far.end()
    assert.equal((await all(near)).toString(), 'back')
    near.close()
  } finally {
    await listener.close()
  }
})

test('a reader that takes nothing holds the writer up', async () => {
  const taken = Promise.withResolvers<MigrationStream>()
  const listener = await links.listen((_channel, stream) => taken.resolve(stream))
  try {
    const near = await links.connect(listener.offer, 'disk:root')
    const far = await taken.promise
    let writtenCount = 0
    const writing = (async () => {
      for (; writtenCount < 1000; writtenCount += 1) await near.write(Buffer.alloc(1024 * 1024))
    })()
    writing.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 500))
    assert.ok(writtenCount < 50, `${writtenCount} MiB were taken by nobody`)
    far.close()
    await assert.rejects(writing, isFault('unavailable'))
  } finally {
    await listener.close()
  }
})

test('another certificate or token is refused, and a stranger who says nothing takes nothing', async () => {
  const streams: string[] = []
  const listener = await links.listen((channel) => streams.push(channel))
  const other = await links.listen(() => {})
  try {
    const { offer } = listener
    const wrong = { ...offer, fingerprint: other.offer.fingerprint }
    await assert.rejects(links.connect(wrong, 'control'), isFault('forbidden'))
    await assert.rejects(links.connect({ ...offer, token: other.offer.token }, 'control'), isFault('forbidden'))
    await assert.rejects(links.connect({ ...offer, token: '' }, 'control'), isFault('forbidden'))
    const stranger = connectTcp(offer.port, offer.address)
    await once(stranger, 'connect')
    stranger.write('GET / HTTP/1.1\r\n\r\n')
    await once(stranger.resume(), 'close')
    assert.deepEqual(streams, [])
    ;(await links.connect(offer, 'control')).close()
    assert.deepEqual(streams, ['control'])
  } finally {
    await Promise.all([listener.close(), other.close()])
  }
  await assert.rejects(links.connect(listener.offer, 'control'), isFault('unavailable'))
})

test('a listener is taken up by what it kept: its offer holds, and nobody else may have its port meanwhile', async () => {
  const first = await links.listen(() => {})
  const kept = JSON.parse(JSON.stringify(first.kept))
  await assert.rejects(
    links.listen(() => {}, kept),
    isFault('conflict'),
  )
  await first.close()
  const taken = Promise.withResolvers<string>()
  const again = await links.listen((channel) => taken.resolve(channel), kept)
  try {
    assert.deepEqual(again.offer, first.offer)
    const near = await links.connect(first.offer, 'control')
    assert.equal(await taken.promise, 'control')
    near.close()
  } finally {
    await again.close()
  }
})

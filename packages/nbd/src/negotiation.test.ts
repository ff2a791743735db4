import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryDevice } from './memory-device.ts'
import type { MetaContext } from './ports.ts'
import { exportOf, sourceOf } from './testing.ts'
import { asking, option, rawClient, request } from './testing/raw.ts'
import {
  CMD,
  encodeString,
  EXPORT_ANSWER,
  EXPORT_ANSWER_ZERO_BYTES,
  FLAG,
  HANDSHAKE_FIXED_NEWSTYLE,
  HANDSHAKE_NO_ZEROES,
  META_CONTEXT,
  OPT,
  REP,
  STRING,
} from './wire.ts'

const SIZE = 1024 * 1024

/** As an export with so many snapshots has them. */
const manyContexts = (count: number): MetaContext[] =>
  Array.from({ length: count }, (_, index) => ({
    name: index === count - 1 ? 'qemu:allocation-depth' : `qemu:dirty-bitmap:web@${index}`,
    extents: async (_offset, lengthBytes) => [{ lengthBytes, status: index }],
  }))

test('LIST_META_CONTEXT tells all that there is, SET_META_CONTEXT refuses more than can be chosen and then nothing is', async () => {
  const one = { ...exportOf('web', memoryDevice(SIZE)), contexts: manyContexts(130) }
  const client = rawClient(sourceOf(one))
  await client.greet()
  await client.ask(OPT.structuredReply)
  const namesOf = (replies: { reply: number; payload: Buffer }[]): string[] =>
    replies
      .filter(({ reply }) => reply === REP.metaContext)
      .map(({ payload }) => payload.toString('utf8', META_CONTEXT.sizeBytes))
  const all = namesOf(await client.ask(OPT.listMetaContext, asking('web', [])))
  assert.deepEqual(all, ['base:allocation', ...one.contexts.map(({ name }) => name)])
  assert.deepEqual(namesOf(await client.ask(OPT.listMetaContext, asking('web', ['qemu:dirty-bitmap:']))), all.slice(1, -1))
  assert.deepEqual(namesOf(await client.ask(OPT.setMetaContext, asking('web', ['qemu:']))), [], 'choosing wants whole names')

  assert.equal(namesOf(await client.ask(OPT.setMetaContext, asking('web', all.slice(0, 64)))).length, 64)
  const refused = await client.ask(OPT.setMetaContext, asking('web', all.slice(0, 65)))
  assert.deepEqual(
    refused.map(({ reply }) => reply),
    [REP.tooBig],
  )
  assert.match(String(refused[0]?.payload), /meta contexts: got 65, want at most 64/)
  await client.open('web')
  client.send(request({ type: CMD.blockStatus, lengthBytes: 4096 }))
  assert.match(String((await client.chunk()).payload), /no context was agreed upon/)
  await client.leave()
})

test('EXPORT_NAME is answered with 124 zeros behind, or without where both sides want none, and the session goes on', async () => {
  for (const noZeroes of [false, true]) {
    const device = memoryDevice(SIZE)
    await device.write(0, new Uint8Array(SIZE).fill(7))
    const client = rawClient(sourceOf(exportOf('disk', device)))
    await client.greet(HANDSHAKE_FIXED_NEWSTYLE | (noZeroes ? HANDSHAKE_NO_ZEROES : 0))
    client.send(Buffer.concat([optionOf('disk'), request({ type: CMD.read, lengthBytes: 512, cookie: 9 })]))
    const { sizeBytes, flags } = EXPORT_ANSWER.decode(await client.take(EXPORT_ANSWER.sizeBytes))
    assert.equal(sizeBytes, BigInt(SIZE))
    assert.equal(flags & (FLAG.hasFlags | FLAG.sendDf), FLAG.hasFlags)
    if (!noZeroes) assert.ok((await client.take(EXPORT_ANSWER_ZERO_BYTES)).every((byte) => byte === 0))
    assert.deepEqual(await client.simpleReply(), { error: 0, cookie: 9 })
    assert.ok((await client.take(512)).every((byte) => byte === 7))
    await client.leave()
  }
})

test('EXPORT_NAME of what is not there ends the connection', async () => {
  const client = rawClient(sourceOf(exportOf('disk', memoryDevice(SIZE))))
  await client.greet()
  client.send(optionOf('none'))
  await assert.rejects(client.take(1), /the connection ended/)
  await client.link.connection.over
})

function optionOf(name: string): Uint8Array {
  const bytes = encodeString(name).subarray(STRING.sizeBytes)
  return option(OPT.exportName, bytes)
}

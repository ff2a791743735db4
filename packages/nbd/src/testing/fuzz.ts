/** Requests and whole sessions that are wrong in any way, for whatever source is behind the server. */
import { joinBytes } from '@typevisor/base'
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { seededRng } from '@typevisor/sim'
import type { ByteBudget } from '../byte-budget.ts'
import type { ExportSource } from '../ports.ts'
import { linkInMemory } from '../testing.ts'
import { BASE_ALLOCATION, CMD, CMD_FLAG, OPT } from '../wire.ts'
import { asking, clientFlags, option, request, wanting } from './raw.ts'

/** The server's part of one session: what it said to all of it. @throws AssertionError when it met a defect of its own. */
export async function feed(source: ExportSource, sent: Uint8Array, seed: number, budget?: ByteBudget): Promise<Buffer> {
  const link = linkInMemory(source, seededRng(seed), budget ? { budget } : {})
  link.client.channel.write(sent, () => {})
  // Everything is promises: a few turns of the event loop bring all of it to its end.
  for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve))
  link.client.channel.end()
  await link.connection.over
  assert.deepEqual(
    link.log.lines.filter(({ level }) => level === 'error'),
    [],
  )
  return Buffer.concat(link.client.reader.drain())
}

/** What comes before the requests: form of the replies, contexts, and the export. */
export function opening(name: string, form: 'simple' | 'structured' | 'extended', contexts: readonly string[] = []): Uint8Array {
  const agree = { simple: [], structured: [option(OPT.structuredReply)], extended: [option(OPT.extendedHeaders)] }[form]
  const set = form === 'simple' ? [] : [option(OPT.setMetaContext, asking(name, [BASE_ALLOCATION, ...contexts]))]
  return joinBytes([clientFlags(), ...agree, ...set, option(OPT.go, wanting(name))])
}

/** Requests of any type, with any flags, near the edges of the disk or far from it. */
export function anyRequests(extended: boolean, sizeBytes: number): fc.Arbitrary<Uint8Array> {
  const place = fc.oneof(
    { weight: 4, arbitrary: fc.nat(sizeBytes) },
    { weight: 3, arbitrary: fc.nat(Math.floor(sizeBytes / 4096)).map((block) => block * 4096) },
    { weight: 1, arbitrary: fc.maxSafeNat() },
  )
  const length = fc.oneof(
    { weight: 4, arbitrary: fc.nat(5000) },
    { weight: 3, arbitrary: fc.nat(64).map((blocks) => blocks * 4096) },
    { weight: 1, arbitrary: extended ? fc.maxSafeNat() : fc.nat(0xffffffff) },
  )
  const one = fc
    .record({
      type: fc.nat(9),
      flags: fc.oneof(fc.constant(0), fc.nat(63)),
      offset: place,
      lengthBytes: length,
      cookie: fc.nat(),
    })
    .map((record) => {
      const hasPayload = record.type === CMD.write || (extended && (record.flags & CMD_FLAG.payloadLength) !== 0)
      // A payload that does not come is one that ends the session's sense.
      return joinBytes([
        request(record, extended),
        new Uint8Array(hasPayload && record.lengthBytes <= 262_144 ? record.lengthBytes : 0),
      ])
    })
  return fc.array(one, { maxLength: 12 }).map(joinBytes)
}

/** A session in which all commands are carried out, with bytes changed anywhere. */
export function changedSession(
  name: string,
  form: 'structured' | 'extended',
  contexts: readonly string[] = [],
): fc.Arbitrary<Uint8Array> {
  const extended = form === 'extended'
  const payload = new Uint8Array(4096).fill(1)
  const good = joinBytes([
    opening(name, form, contexts),
    request({ type: CMD.write, flags: extended ? CMD_FLAG.payloadLength : 0, lengthBytes: 4096, cookie: 1 }, extended),
    payload,
    request({ type: CMD.read, lengthBytes: 65_536, cookie: 2 }, extended),
    request({ type: CMD.trim, lengthBytes: 4096, cookie: 3 }, extended),
    request({ type: CMD.writeZeroes, flags: CMD_FLAG.noHole, offset: 8192, lengthBytes: 8192, cookie: 4 }, extended),
    request({ type: CMD.writeZeroes, flags: CMD_FLAG.fastZero, lengthBytes: 4096, cookie: 5 }, extended),
    request({ type: CMD.blockStatus, lengthBytes: 65_536, cookie: 6 }, extended),
    request({ type: CMD.cache, lengthBytes: 4096, cookie: 7 }, extended),
    request({ type: CMD.flush, cookie: 8 }, extended),
    request({ type: CMD.disconnect, cookie: 9 }, extended),
  ])
  // The payload is most of it, and changing it changes nothing else.
  const places = Array.from(good.keys()).filter((at) => good[at] !== 1 || good[at - 1] !== 1)
  return fc.array(fc.tuple(fc.constantFrom(...places), fc.nat(255)), { maxLength: 6 }).map((changes) => {
    const bytes = good.slice()
    for (const [at, value] of changes) bytes[at] = value
    return bytes
  })
}

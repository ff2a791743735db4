import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fromBase64, toBase64 } from '../../api/base64.ts'
import { FILE_BYTES_MAX, nameOf, PIECE_BYTES, readWhole, textOf, writeWhole } from './guest-file.ts'

const { signal } = new AbortController()
const quiet = { signal, onBytes: () => undefined }
const bytesOf = (size: number) => Uint8Array.from({ length: size }, (_, index) => index % 251)

test('a file goes in pieces and comes back as it was, whatever its size is to that of a piece', async () => {
  for (const size of [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES]) {
    let kept = Uint8Array.from([9, 9])
    const said: number[] = []
    const content = bytesOf(size)
    await writeWhole(
      content,
      async (piece, append) => {
        kept = append ? Uint8Array.from([...kept, ...piece]) : Uint8Array.from(piece)
      },
      { signal, onBytes: (count) => said.push(count) },
    )
    assert.deepEqual(kept, content, `${size} bytes`)
    assert.equal(said.at(-1), size)
    const back = await readWhole(async (from, limit) => kept.subarray(from, from + limit), quiet)
    assert.deepEqual(back, content, `${size} bytes`)
  }
})

test('a file that is larger than the page takes is refused, with the way that there is', async () => {
  let calls = 0
  const endless = async (_from: number, limit: number) => {
    calls += 1
    return new Uint8Array(limit)
  }
  await assert.rejects(readWhole(endless, quiet), { code: 'exhausted', message: /file-get --from/ })
  assert.equal(calls, FILE_BYTES_MAX / PIECE_BYTES + 1)
})

test('a text is shown as one, bytes and very long ones are not', () => {
  const encode = (text: string) => new TextEncoder().encode(text)
  assert.equal(textOf(encode('gr\u00fc\u00dfe\n\tyou')), 'gr\u00fc\u00dfe\n\tyou')
  assert.equal(textOf(encode('')), '')
  assert.equal(textOf(Uint8Array.from([0xff, 0xfe])), null)
  assert.equal(textOf(encode('a\0b')), null)
  assert.equal(textOf(encode('x'.repeat(65 * 1024))), null)
})

test('a path names the file that is saved, and bytes become base64 and bytes again', () => {
  assert.deepEqual(['/etc/motd', '/a/b/', '/'].map(nameOf), ['motd', 'b', 'file'])
  const content = bytesOf(100_000)
  assert.equal(toBase64(content), Buffer.from(content).toString('base64'))
  assert.deepEqual(fromBase64(toBase64(content)), content)
})

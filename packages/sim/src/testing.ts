/** The conformance suite of the `Disk` port, and what tests under seeds have in common. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, type Disk } from '@typevisor/base'
export { toldWith, underSeeds } from './under-seeds.ts'

export interface DiskUnderTest {
  readonly disk: Disk
  /** Opens the same files anew, as the next process would after a clean end. */
  reopen(): Promise<Disk>
  [Symbol.asyncDispose](): Promise<void>
}

const text = (content: Uint8Array | null): string | null => (content === null ? null : new TextDecoder().decode(content))
const raw = (content: string): Uint8Array => new TextEncoder().encode(content)

export function diskConformance(driver: string, make: () => Promise<DiskUnderTest>): void {
  const check = (sentence: string, body: (under: DiskUnderTest) => Promise<void>): void => {
    test(`${driver}: ${sentence}`, async () => {
      await using under = await make()
      await body(under)
    })
  }

  check('a file that is not there reads as null', async ({ disk }) => {
    assert.equal(await disk.read('missing'), null)
  })

  check('opening makes the file, empty', async ({ disk }) => {
    const file = await disk.open('journal')
    assert.equal(file.sizeBytes, 0)
    await file.close()
    assert.equal(text(await disk.read('journal')), '')
    assert.deepEqual(await disk.list(), ['journal'])
  })

  check('appended and synced content is there for the next process', async ({ disk, reopen }) => {
    const file = await disk.open('journal')
    await file.append(raw('one,'))
    await file.append(raw('two'))
    await file.sync()
    assert.equal(file.sizeBytes, 7)
    await file.close()
    const next = await (await reopen()).open('journal')
    assert.equal(next.sizeBytes, 7)
    await next.append(raw(',three'))
    await next.sync()
    await next.close()
    assert.equal(text(await disk.read('journal')), 'one,two,three')
  })

  check('an append does not see what the caller does to its buffer afterwards', async ({ disk }) => {
    const file = await disk.open('journal')
    const buffer = raw('before')
    await file.append(buffer)
    buffer.fill(0)
    await file.sync()
    assert.equal(text(await disk.read('journal')), 'before')
    await file.close()
  })

  check('appends asked for at once keep their order', async ({ disk }) => {
    const file = await disk.open('journal')
    await Promise.all(['a', 'b', 'c', 'd', 'e', 'f'].map((letter) => file.append(raw(letter))))
    await file.sync()
    assert.equal(text(await disk.read('journal')), 'abcdef')
    await file.close()
  })

  check('a cut file goes on where it was cut', async ({ disk }) => {
    const file = await disk.open('journal')
    await file.append(raw('good, torn'))
    await file.truncate(4)
    assert.equal(file.sizeBytes, 4)
    await file.append(raw('!'))
    await file.sync()
    await file.close()
    assert.equal(text(await disk.read('journal')), 'good!')
  })

  check('a replace puts one content in the place of another, and makes the file when it is missing', async ({ disk, reopen }) => {
    await disk.replace('state', raw('old and long'))
    assert.equal(text(await disk.read('state')), 'old and long')
    await disk.replace('state', raw('new'))
    assert.equal(text(await (await reopen()).read('state')), 'new')
    assert.deepEqual(await disk.list(), ['state'])
  })

  check('a file that was open during a replace is another file from then on', async ({ disk }) => {
    const old = await disk.open('state')
    await old.append(raw('old'))
    await disk.replace('state', raw('new'))
    await old.append(raw(' and lost'))
    await old.sync()
    await old.close()
    assert.equal(text(await disk.read('state')), 'new')
  })

  check('removing is idempotent', async ({ disk }) => {
    await disk.replace('state', raw('x'))
    await disk.remove('state')
    await disk.remove('state')
    assert.equal(await disk.read('state'), null)
    assert.deepEqual(await disk.list(), [])
  })

  check('names are listed sorted', async ({ disk }) => {
    for (const name of ['b', 'a', 'c']) await disk.replace(name, raw(name))
    assert.deepEqual(await disk.list(), ['a', 'b', 'c'])
  })

  check('a name that leads out of the folder is refused', async ({ disk }) => {
    for (const name of ['../state', '/etc/passwd', 'a/b', '..', '.', '', 'a\0b']) {
      const refused = (error: unknown): boolean => error instanceof Fault && error.code === 'invalid'
      await assert.rejects(disk.read(name), refused, `read ${JSON.stringify(name)}`)
      await assert.rejects(disk.open(name), refused, `open ${JSON.stringify(name)}`)
      await assert.rejects(disk.replace(name, raw('x')), refused, `replace ${JSON.stringify(name)}`)
      await assert.rejects(disk.remove(name), refused, `remove ${JSON.stringify(name)}`)
    }
  })
}

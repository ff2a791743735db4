import assert from 'node:assert/strict'
import { open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { bench, consoleText, running, watch } from './testing.ts'

async function head(path: string, size: number): Promise<Buffer> {
  const file = await open(path, 'r')
  try {
    return (await file.read(Buffer.alloc(size), 0, size, 0)).buffer
  } finally {
    await file.close()
  }
}

const ET_CORE = 4

test('a core dump holds all memory, as an ELF core or as kdump has it, and the guest goes on with no word of it', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const events = watch(b.driver)
  const path = join(b.folder, 'guest.core')
  const { sizeBytes } = await b.driver.dumpCore(domain.id, path)
  assert.equal((await stat(path)).size, sizeBytes)
  assert.ok(sizeBytes > 32 * 1024 * 1024, `${sizeBytes} bytes of a guest with 32 MiB`)
  const elf = await head(path, 64)
  assert.equal(elf.toString('latin1', 0, 4), '\x7fELF')
  assert.equal(elf.readUInt16LE(16), ET_CORE)
  const kdump = await b.driver.dumpCore(domain.id, `${path}.kdump`, { format: 'kdump' })
  assert.ok(kdump.sizeBytes < sizeBytes, 'compressed')
  assert.equal((await head(`${path}.kdump`, 16)).toString('latin1', 0, 12), 'makedumpfile')
  const kinds = events.map(({ state }) => state.kind)
  assert.deepEqual(kinds, ['paused', 'running'], 'of its start alone')
  const { endOffset } = await b.driver.readConsole(domain.id, 0, 1 << 24)
  await b.driver.reset(domain.id)
  await consoleText(b.driver, domain, (text) => text.length > endOffset)
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'running' })
})

test('a core dump that is withdrawn or has no room leaves no file, and the guest as it was', async (t) => {
  const b = await bench(t)
  const domain = await running(b, { memoryMib: 512 })
  const path = join(b.folder, 'guest.core')
  const withdrawn = new AbortController()
  const dumping = b.driver.dumpCore(domain.id, path, { signal: withdrawn.signal })
  const name = 'guest.core.partial'
  while (!(await readdir(b.folder)).includes(name) || (await stat(join(b.folder, name))).size === 0)
    await new Promise((resolve) => setImmediate(resolve))
  withdrawn.abort(new Fault('aborted', 'not wanted any more'))
  await assert.rejects(dumping, (error: unknown) => error instanceof Fault && error.code === 'aborted')
  await assert.rejects(b.driver.dumpCore(domain.id, join(b.folder, 'no', 'such', 'folder')), (error) => error instanceof Fault)
  assert.deepEqual(
    (await readdir(b.folder)).filter((each) => each.startsWith('guest.core')),
    [],
  )
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'running' })
  const { sizeBytes } = await b.driver.dumpCore(domain.id, path)
  assert.ok(sizeBytes > 512 * 1024 * 1024)
})

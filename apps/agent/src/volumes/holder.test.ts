import assert from 'node:assert/strict'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { uuidv7Ids, realClock, realRng } from '@typevisor/runtime-node'
import { leaseHolder } from './holder.ts'

test('a data directory has one name as a holder, made once, and never another in place of one that cannot be read', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'typevisor-holder-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  const path = join(folder, 'holder')
  const ids = uuidv7Ids(realClock(), realRng())
  // As a kill leaves it.
  await writeFile(`${path}.new`, '0189')
  const made = await leaseHolder(path, ids)
  assert.match(made, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
  assert.equal(await leaseHolder(path, ids), made)
  assert.deepEqual(await readdir(folder), ['holder'])
  await writeFile(path, 'nonsense')
  await assert.rejects(
    leaseHolder(path, ids),
    (error) => error instanceof Fault && /got "nonsense", want the UUID/.test(error.message),
  )
  assert.equal(await readFile(path, 'utf8'), 'nonsense')
})

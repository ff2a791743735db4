import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { memoryLog } from '@typevisor/sim'
import { openRunFolder, sweepRunFolders } from './run-folder.ts'

test('the run folder of a data directory that is gone is taken away, unless something of it runs', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'tv-run-'))
  t.after(() => rm(folder, { recursive: true }))
  const parent = join(folder, 'run')
  const open = async (name: string): Promise<string> => {
    await mkdir(join(folder, name))
    const path = await openRunFolder(parent, join(folder, name))
    await mkdir(join(path, 'domain'))
    return path
  }
  const [here, gone, live] = [await open('here'), await open('gone'), await open('live')]
  await mkdir(join(parent, 'agent-0123456789ab'))
  // Its folder went, its name did not.
  await writeFile(join(parent, 'agent-ba9876543210.of'), join(folder, 'gone'))
  await mkdir(join(parent, 'of-somebody-else'))
  for (const name of ['gone', 'live']) await rm(join(folder, name), { recursive: true })
  const runs = async (pidFile: string) => (pidFile === join(live, 'domain', 'qemu.pid') ? [1] : [])
  await sweepRunFolders(parent, runs, memoryLog())
  const left = await readdir(parent)
  assert.ok(
    left.every((name) => !name.startsWith(basename(gone)) && !name.startsWith('agent-ba9876543210')),
    left.join(' '),
  )
  assert.deepEqual(
    [here, live].map((path) => left.includes(basename(path))),
    [true, true],
  )
  assert.ok(left.includes('agent-0123456789ab') && left.includes('of-somebody-else'))
})

test('whoever starts again loses nothing to another that starts meanwhile', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'tv-run-'))
  t.after(() => rm(folder, { recursive: true }))
  const parent = join(folder, 'run')
  const path = await openRunFolder(parent, folder)
  await mkdir(join(path, 'nbd'))
  let starts = 0
  const again = async () => {
    for (; starts < 500; starts += 1) await openRunFolder(parent, folder)
  }
  const sweeping = async () => {
    while (starts < 500) await sweepRunFolders(parent, async () => [], memoryLog())
  }
  await Promise.all([again(), sweeping(), sweeping()])
  assert.deepEqual(await readdir(path), ['nbd'])
  assert.deepEqual((await readdir(parent)).toSorted(), [basename(path), `${basename(path)}.of`])
})

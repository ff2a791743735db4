/** The name by which this data directory's agents hold leases: made once, and the same for each agent that comes after. */
import { open, readFile, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Fault, type IdSource } from '@typevisor/base'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** A UUID in small letters. @throws Fault `failed` when the file says something else: another name would be refused its own disks. */
export async function leaseHolder(path: string, ids: IdSource): Promise<string> {
  const said = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (said !== null) {
    if (UUID.test(said.trim())) return said.trim()
    throw new Fault('failed', `${path}: got ${JSON.stringify(said.slice(0, 64))}, want the UUID by which disks are leased`)
  }
  const made = ids.next()
  const making = `${path}.new`
  await withFile(making, 'w', async (file) => {
    await file.writeFile(`${made}\n`)
    await file.sync()
  })
  await rename(making, path)
  // Before a lease names it, it is safe.
  await withFile(dirname(path), 'r', (folder) => folder.sync())
  return made
}

type OpenFile = Awaited<ReturnType<typeof open>>

async function withFile(path: string, flags: 'r' | 'w', work: (file: OpenFile) => Promise<void>): Promise<void> {
  const file = await open(path, flags, 0o600)
  try {
    await work(file)
  } finally {
    await file.close()
  }
}

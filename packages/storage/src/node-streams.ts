/** Snapshots to streams and back, through a folder that is served: what is asked goes over its control socket, bytes over NBD. */
import { createHash } from 'node:crypto'
import { Fault } from '@typevisor/base'
import { connectNbd, type NbdClient } from '@typevisor/nbd'
import { dataAddress } from './node-volume-server.ts'
import { nodeCompressor } from './node-compressor.ts'
import { nodeChecksum } from './node-store-file.ts'
import { diffExtents } from './served/diff-extents.ts'
import { readStream, writeStream, type StreamHead, type StreamParts } from './served/volume-stream.ts'
import { lockedFault } from './store/state.ts'
import type { CompressionKind } from './store/catalog.ts'
import type { VolumeForm } from './served/transfer-commands.ts'
import type { StreamTarget } from './store/transfers.ts'
import type { VolumeDescription } from './store/store.ts'
import type { CommandCaller } from './volume-commands.ts'

const PARTS: StreamParts = {
  checksum: nodeChecksum,
  compressor: nodeCompressor,
  digest: () => {
    const hash = createHash('sha256')
    return { update: (content) => void hash.update(content), digest: () => hash.digest() }
  },
}

export interface ServedFolder {
  /** Served by this process or another. */
  readonly dir: string
  readonly call: CommandCaller
}

/** An export of a folder that is served, as a disk. */
export async function openServed(dir: string, exportName: string): Promise<NbdClient> {
  await using socket = await dataAddress(dir)
  return await connectNbd({ address: { socketPath: socket.path }, exportName, extendedHeaders: true })
}

/**
 * @param from any other snapshot: what is written is what differs from it; null: the whole volume.
 * @param startBytes where an import that was interrupted goes on, in bytes of the volume.
 * @throws Fault `invalid` for what are no snapshots, `not_found`, `conflict` for one that is locked.
 */
export async function* exportSnapshot(
  { dir, call }: ServedFolder,
  {
    snapshot,
    from = null,
    startBytes = 0,
    compression = 'none',
  }: { snapshot: string; from?: string | null; startBytes?: number; compression?: CompressionKind },
  onProgress: (positionBytes: number, sizeBytes: number) => void = () => {},
): AsyncGenerator<Uint8Array, void, void> {
  const known = await call('list', {})
  const find = (name: string): VolumeDescription => {
    const found = known.find((one) => one.name === name)
    if (!found) throw new Fault('not_found', `snapshot ${JSON.stringify(name)}: there is none`)
    if (found.kind !== 'snapshot')
      throw new Fault('invalid', `export ${name}: it is a volume, which changes; want a snapshot of it (VOLUME@SNAPSHOT)`)
    return found
  }
  const [taken, base] = [find(snapshot), from === null ? null : find(from)]
  if (base?.id === taken.id)
    throw new Fault('invalid', `export ${snapshot} --from ${base.name}: it is the same snapshot, so there is nothing to export`)
  if (taken.encryption === 'locked') throw lockedFault(taken, '--key-file FILE')
  const { sizeBytes } = taken
  if (!Number.isSafeInteger(startBytes) || startBytes < 0 || startBytes > sizeBytes)
    throw new Fault('invalid', `export ${snapshot}: got position ${startBytes}, want 0 to ${sizeBytes}`)
  const head: StreamHead = {
    snapshotId: taken.id.replaceAll('-', ''),
    snapshotName: snapshot,
    base: base && { id: base.id.replaceAll('-', ''), name: base.name },
    sizeBytes,
    startBytes,
    createdAt: taken.createdAt,
    compression,
  }
  await using device = await openServed(dir, snapshot)
  yield* writeStream(head, diffExtents(call, from, snapshot, startBytes), device, PARTS, (at) => onProgress(at, sizeBytes))
}

/** `form`: what a whole volume is made as; its key file unlocks what is there already. @returns the snapshot that is there now. @throws as `readStream`, and Fault `conflict` where the stream does not fit what is there. */
export async function importStream(
  { dir, call }: ServedFolder,
  name: string,
  chunks: AsyncIterable<Uint8Array>,
  form: VolumeForm = {},
  onProgress: (positionBytes: number, sizeBytes: number) => void = () => {},
): Promise<VolumeDescription> {
  let device: NbdClient | null = null
  const opened = (): NbdClient => {
    if (!device) throw new Fault('internal', 'a record before the head')
    return device
  }
  let head: StreamHead
  try {
    head = await readStream(
      chunks,
      {
        device: opened,
        begin: async (found) => {
          const { positionBytes, exportName } = await call('importBegin', { ...targetOf(name, found), ...form })
          device = await openServed(dir, exportName)
          return positionBytes
        },
        mark: async (positionBytes) => void (await call('importMark', { name, positionBytes })),
      },
      PARTS,
      (at, { sizeBytes }) => onProgress(at, sizeBytes),
    )
  } finally {
    await (device as NbdClient | null)?.close()
  }
  const fits = targetOf(name, head)
  await call('importFinish', { ...fits, createdAt: head.createdAt })
  const made = (await call('list', {})).find((one) => one.name === `${name}@${fits.snapshot}`)
  if (!made) throw new Fault('failed', `import of ${name}: ${name}@${fits.snapshot} is gone, somebody deleted it`)
  return made
}

const uuid = (hex: string): string => hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')

function targetOf(name: string, head: StreamHead): StreamTarget {
  const { snapshotName, base, sizeBytes, startBytes } = head
  return {
    name,
    snapshot: snapshotName.slice(snapshotName.indexOf('@') + 1),
    snapshotId: uuid(head.snapshotId),
    sizeBytes,
    startBytes,
    ...(base ? { baseId: uuid(base.id), baseName: base.name } : {}),
  }
}

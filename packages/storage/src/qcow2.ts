/**
 * Volumes as files of one folder, made by qemu-img.
 *
 *   clone:  base.qcow2 <-- <id>.qcow2     an overlay; the base is named by its absolute path in the overlay's header
 *   put:    <id>.raw                      a small file, read-only
 *
 * A volume is made as `.new-<n>-<id>`, synced and renamed: under its own name it is whole or not there. What a killed process left is
 * taken away by `sweep` at the first call. Calls for one id run one after the other, calls for different ids side by side.
 *
 * A path is never read as an option or as a protocol by qemu-img: ids are checked (UUIDs), paths are absolute and handed over as
 * `file:` names, and the base lies in the header as a plain absolute path (which begins with `/`, so `:` in it is no protocol).
 */
import { bytes, Fault, type Bytes, type Log } from '@typevisor/base'
import { parseVolumeId, type VolumeId } from '@typevisor/model'
import { commandFault, runChecked } from './command.ts'
import { Lines } from './lines.ts'
import type { CommandRunner, OpenVolume, VolumeFiles, VolumeInfo, VolumeStore } from './ports.ts'

type Format = 'qcow2' | 'raw'

export interface Qcow2Options {
  readonly files: VolumeFiles
  readonly runner: CommandRunner
  /** A file as a disk; `openImage`. Left out: volumes are their guests' alone. */
  readonly openFile?: ((path: string, format: Format) => Promise<OpenVolume>) | undefined
  readonly log?: Log | undefined
}

const formatOf = ({ source }: VolumeInfo): Format => (source.kind === 'file' ? source.format : 'raw')

const TEMPORARY = '.new-'
const SECTOR = 512
/** qcow2's limit with 64 KiB clusters is far beyond; this is ext4's and a typing mistake's. */
const VIRTUAL_BYTES_MAX = 16 * 1024 ** 4
const PUT_BYTES_MAX = 64 * 1024 * 1024
const MODE: Record<Format, number> = { qcow2: 0o600, raw: 0o400 }

export function qcow2VolumeStore({ files, runner, openFile, log }: Qcow2Options): VolumeStore {
  const lines = new Lines<VolumeId>()
  let counter = 0
  let swept: Promise<void> | undefined

  const sweep = async (): Promise<void> => {
    for (const name of await files.list()) {
      if (!name.startsWith(TEMPORARY)) continue
      await files.remove(name)
      log?.info('volume.leftover_removed', { name })
    }
  }

  /** One at a time for each id. */
  const inLine = async <T>(id: VolumeId, work: () => Promise<T>): Promise<T> => {
    await (swept ??= sweep())
    return lines.run(id, work)
  }

  const find = async (id: VolumeId): Promise<VolumeInfo | null> => {
    for (const format of ['qcow2', 'raw'] as const) {
      const there = await files.stat(fileName(id, format))
      if (!there) continue
      const path = files.path(fileName(id, format))
      const { virtualBytes, basePath } =
        format === 'raw' ? { virtualBytes: bytes(there.sizeBytes), basePath: null } : await inspect(runner, path, 'qcow2')
      return { id, virtualBytes, allocatedBytes: bytes(there.allocatedBytes), source: { kind: 'file', path, format }, basePath }
    }
    return null
  }

  /** Makes a file under a name of its own, then gives it its true one; leaves nothing else in any case. */
  const make = async (id: VolumeId, format: Format, write: (name: string) => Promise<void>): Promise<VolumeInfo> => {
    const temporary = `${TEMPORARY}${counter++}-${fileName(id, format)}`
    try {
      await write(temporary)
      await files.publish(temporary, fileName(id, format), MODE[format])
    } catch (error) {
      await files.remove(temporary)
      throw error
    }
    const made = await find(id)
    if (!made) throw new Fault('failed', `make volume ${id}: it is gone, another process removed it`)
    return made
  }

  const open = async (id: VolumeId, openFile: NonNullable<Qcow2Options['openFile']>): Promise<OpenVolume> => {
    const found = await inLine(parseVolumeId(id), () => find(id))
    if (!found) throw new Fault('not_found', `open volume ${id}: there is none of this id`)
    return openFile(files.path(fileName(id, formatOf(found))), formatOf(found))
  }

  return {
    ...(openFile ? { open: (id: VolumeId) => open(id, openFile) } : {}),
    clone: (id, base, virtualBytes, { signal } = {}) =>
      inLine(parseVolumeId(id), async () => {
        signal?.throwIfAborted()
        checkBase(base)
        const there = await find(id)
        if (there) return sameKind(there, 'qcow2')
        if (!(await files.exists(base.path))) throw new Fault('not_found', `clone volume ${id}: no base ${base.path}`)
        const source = await inspect(runner, base.path, base.format, signal)
        const wanted = sizeFor(id, virtualBytes, source.virtualBytes)
        return make(id, 'qcow2', async (name) => {
          const target = `file:${files.path(name)}`
          await runChecked(
            runner,
            ['qemu-img', 'create', '-q', '-f', 'qcow2', '-F', base.format, '-b', base.path, '--', target, String(wanted)],
            { signal },
          )
        })
      }),
    put: (id, content) =>
      inLine(parseVolumeId(id), async () => {
        if (content.byteLength === 0 || content.byteLength > PUT_BYTES_MAX) {
          throw new Fault('invalid', `put volume ${id}: got ${content.byteLength} bytes, want 1 to ${PUT_BYTES_MAX}`)
        }
        const there = await find(id)
        if (there) return sameKind(there, 'raw')
        return make(id, 'raw', (name) => files.write(name, padded(content)))
      }),
    create: (id, virtualBytes) =>
      inLine(parseVolumeId(id), async () => {
        const there = await find(id)
        if (there) return sameKind(there, 'qcow2')
        const wanted = sizeFor(id, virtualBytes, bytes(0))
        return make(id, 'qcow2', async (name) => {
          await runChecked(runner, ['qemu-img', 'create', '-q', '-f', 'qcow2', '--', `file:${files.path(name)}`, String(wanted)])
        })
      }),
    grow: (id, virtualBytes) =>
      inLine(parseVolumeId(id), async () => {
        const there = await find(id)
        if (!there) throw new Fault('not_found', `grow volume ${id}: there is none of this id`)
        if (formatOf(there) === 'raw') throw new Fault('unsupported', `grow volume ${id}: it is a file`)
        const wanted = sizeFor(id, virtualBytes, there.virtualBytes)
        const path = files.path(fileName(id, 'qcow2'))
        if (wanted > there.virtualBytes)
          await runChecked(runner, ['qemu-img', 'resize', '-q', '-f', 'qcow2', '--', `file:${path}`, String(wanted)])
        return { ...there, virtualBytes: bytes(wanted) }
      }),
    get: (id) => inLine(parseVolumeId(id), () => find(id)),
    remove: (id) =>
      inLine(parseVolumeId(id), async () => {
        for (const format of ['qcow2', 'raw'] as const) await files.remove(fileName(id, format))
      }),
    async list({ prefix = '' } = {}) {
      await (swept ??= sweep())
      const ids = (await files.list()).map(idOf).filter((id): id is VolumeId => id?.startsWith(prefix) === true)
      const found = await Promise.all(ids.sort().map((id) => inLine(id, () => find(id))))
      return found.filter((info) => info !== null)
    },
  }
}

/** What qemu-img says of a file. @throws Fault `failed` when it is damaged or not of `format`. */
export async function inspect(
  runner: CommandRunner,
  path: string,
  format: Format,
  signal?: AbortSignal,
): Promise<{ virtualBytes: Bytes; basePath: string | null; dataPath: string | null }> {
  // -U: the file may be open in a running guest, which holds a lock.
  const argv = ['qemu-img', 'info', '-U', '--output=json', '-f', format, '--', `file:${path}`] as const
  const result = await runner.run([...argv] as [string, ...string[]], { signal })
  if (result.exitCode !== 0) throw commandFault(argv, result)
  const info: unknown = JSON.parse(new TextDecoder().decode(result.stdout))
  const {
    'virtual-size': size,
    'backing-filename': base,
    'format-specific': specific,
  } = (typeof info === 'object' && info !== null ? info : {}) as {
    'virtual-size'?: unknown
    'backing-filename'?: unknown
    'format-specific'?: { data?: { 'data-file'?: unknown } }
  }
  if (typeof size !== 'number') throw new Fault('failed', `inspect ${path}: qemu-img names no virtual-size`)
  const data = specific?.data?.['data-file']
  return {
    virtualBytes: bytes(size),
    basePath: typeof base === 'string' ? base : null,
    dataPath: typeof data === 'string' ? data : null,
  }
}

export function checkBase(base: { path: string; format: Format }): void {
  if (!base.path.startsWith('/') || /[\0\n]/.test(base.path)) {
    throw new Fault('invalid', `base: got ${JSON.stringify(base.path)}, want an absolute path`)
  }
  if (base.path.length > 1023)
    throw new Fault('invalid', `base: path of ${base.path.length} characters, want at most 1023 (the header's room)`)
}

/** In whole units. @throws Fault `invalid` for less than the base's. */
export function sizeFor(id: VolumeId, wanted: Bytes, baseBytes: Bytes, unitBytes = SECTOR): number {
  const sizeBytes = Math.ceil(wanted / unitBytes) * unitBytes
  if (sizeBytes < baseBytes)
    throw new Fault('invalid', `volume ${id}: got ${wanted} bytes, want at least the ${baseBytes} that there are`)
  if (wanted > VIRTUAL_BYTES_MAX)
    throw new Fault('invalid', `volume ${id}: got ${wanted} bytes, want at most ${VIRTUAL_BYTES_MAX}`)
  return sizeBytes
}

/** Idempotent means: the same call again. The same id for something else is a mistake of the caller. */
function sameKind(there: VolumeInfo, format: Format): VolumeInfo {
  if (formatOf(there) !== format) throw new Fault('conflict', `volume ${there.id} is there as ${formatOf(there)}, want ${format}`)
  return there
}

/** Disks are read in sectors. */
function padded(content: Uint8Array): Uint8Array {
  if (content.byteLength % SECTOR === 0) return content
  const out = new Uint8Array(Math.ceil(content.byteLength / SECTOR) * SECTOR)
  out.set(content)
  return out
}

const fileName = (id: VolumeId, format: Format): string => `${id}.${format}`

function idOf(name: string): VolumeId | null {
  const match = /^([0-9a-f].*)\.(?:qcow2|raw)$/.exec(name)
  try {
    return match ? parseVolumeId(match[1]) : null
  } catch {
    return null // a file that is none of ours
  }
}

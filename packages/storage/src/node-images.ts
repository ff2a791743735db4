/** Images of disks to volumes and back, by QEMU's tools on one side and our NBD server on the other. */
import { open, realpath, stat } from 'node:fs/promises'
import { Fault } from '@typevisor/base'
import { runChecked } from './command.ts'
import { fileFault, writeNewFile } from './node-new-file.ts'
import type { ServedFolder } from './node-streams.ts'
import { dataAddress } from './node-volume-server.ts'
import type { CommandRunner } from './ports.ts'
import { assertAlone, backingFault, IMAGE_HEAD_BYTES, probeImage, type ImageFormat } from './served/disk-image.ts'
import type { VolumeForm } from './served/transfer-commands.ts'
import { BLOCK_BYTES } from './store/format.ts'
import { lockedFault } from './store/state.ts'
import type { VolumeDescription } from './store/store.ts'

export interface ImageOptions {
  readonly runner: CommandRunner
  readonly signal?: AbortSignal
  /** 0 to 1. */
  readonly onProgress?: (fraction: number) => void
}

export interface ImageInfo {
  readonly path: string
  readonly format: ImageFormat
  readonly virtualBytes: number
  readonly backing: string | null
}

/** The beginning and the end of a file. @throws Fault `not_found`, `invalid` for what is no file. */
export async function imageEnds(path: string): Promise<{ path: string; first: Uint8Array; last: Uint8Array }> {
  try {
    const real = await realpath(path)
    const found = await stat(real)
    // Others than files would be waited for, or never end.
    if (!found.isFile() && !found.isBlockDevice()) throw new Fault('invalid', `image ${path}: it is no file`)
    await using file = await open(real, 'r')
    const at = async (position: number): Promise<Uint8Array> => {
      const { buffer, bytesRead } = await file.read(new Uint8Array(IMAGE_HEAD_BYTES), 0, IMAGE_HEAD_BYTES, position)
      return buffer.subarray(0, bytesRead)
    }
    return { path: real, first: await at(0), last: await at(Math.max(0, found.size - IMAGE_HEAD_BYTES)) }
  } catch (error) {
    throw fileFault('image', error)
  }
}

/** A node of QEMU's block layer that reads nothing but this file: a name is never read as a protocol or an option. */
const imageNode = (path: string, format: ImageFormat, withBacking: boolean): string =>
  `json:${JSON.stringify({
    driver: format,
    ...(!withBacking && (format === 'qcow2' || format === 'vmdk') ? { backing: null } : {}),
    file: { driver: 'file', filename: path },
  })}`

const nbdNode = (path: string, exportName: string): string =>
  `json:${JSON.stringify({
    driver: 'raw',
    file: { driver: 'nbd', server: { type: 'unix', path }, export: exportName },
  })}`

/** What an image is. @throws Fault `forbidden` when it names other files, `failed` with qemu-img's words. */
export async function inspectImage(
  path: string,
  {
    runner,
    signal,
    format: wanted,
    withBacking = false,
  }: Pick<ImageOptions, 'runner' | 'signal'> & { format?: ImageFormat; withBacking?: boolean },
): Promise<ImageInfo> {
  const { path: real, first, last } = await imageEnds(path)
  const format = wanted ?? probeImage(first, last)
  assertAlone(format, first, withBacking)
  const { stdout } = await runChecked(
    runner,
    ['qemu-img', 'info', '--output=json', imageNode(real, format, withBacking)],
    signal ? { signal } : {},
  )
  const said = JSON.parse(new TextDecoder().decode(stdout)) as { 'virtual-size': number; 'backing-filename'?: string }
  const backing = said['backing-filename'] ?? null
  if (backing !== null && !withBacking) throw backingFault(backing)
  return { path: real, format, virtualBytes: said['virtual-size'], backing }
}

/**
 * Makes volume `name` of an image. The volume is there when it is whole; its size is rounded up to whole blocks. The file must not be changed
 * meanwhile. @throws as `inspectImage`, and Fault `conflict` for a name that is taken.
 */
export async function importImage(
  { dir, call }: ServedFolder,
  name: string,
  path: string,
  options: ImageOptions & { format?: ImageFormat; withBacking?: boolean; form?: VolumeForm },
): Promise<VolumeDescription> {
  const { withBacking = false, form = {} } = options
  const image = await inspectImage(path, options)
  await using socket = await dataAddress(dir)
  const sizeBytes = Math.max(1, Math.ceil(image.virtualBytes / BLOCK_BYTES)) * BLOCK_BYTES
  const { exportName } = await call('imageBegin', { name, sizeBytes, ...form })
  try {
    const from = imageNode(image.path, image.format, withBacking)
    await convert(options, ['-n', '--target-is-zero', '-O', 'raw', from, nbdNode(socket.path, exportName)])
    await call('imageFinish', { exportName })
  } catch (error) {
    await call('takeAway', { exportName }).catch(() => {}) // what went wrong first is what is told
    throw error
  }
  const made = (await call('list', {})).find((one) => one.name === name)
  if (!made) throw new Fault('failed', `import of ${name}: it is gone, somebody deleted it`)
  return made
}

/** `qemu-img convert`, with its progress. */
async function convert(options: ImageOptions, words: readonly string[]): Promise<void> {
  const { runner, signal } = options
  await runChecked(runner, ['qemu-img', 'convert', '-p', ...words], {
    ...(signal ? { signal } : {}),
    onStdout: progressOf(options),
  })
}

/** An image of exactly the volume's size, where the format can say it. */
const OPTIONS: Partial<Record<ImageFormat, string>> = { vpc: 'force_size=on' }

/**
 * Writes a snapshot to an image file, which must not be there; it is there when it is whole. A volume is written as it was when
 * this began.
 */
export async function exportImage(
  { dir, call }: ServedFolder,
  name: string,
  path: string,
  options: ImageOptions & { format: ImageFormat },
): Promise<void> {
  const { format } = options
  await writeNewFile('file', path, async (part) => {
    const source = (await call('list', {})).find((one) => one.name === name)
    if (!source) throw new Fault('not_found', `volume ${JSON.stringify(name)}: there is none`)
    if (source.encryption === 'locked') throw lockedFault(source, '--key-file FILE')
    await using socket = await dataAddress(dir)
    const taken = source.kind === 'volume' ? (await call('exportBegin', { name })).exportName : null
    try {
      const more = OPTIONS[format] === undefined ? [] : ['-o', OPTIONS[format]]
      await convert(options, ['-O', format, ...more, nbdNode(socket.path, taken ?? name), `file:${part}`])
    } finally {
      if (taken) await call('takeAway', { exportName: taken })
    }
  })
}

/** qemu-img says `    (12.50/100%)` again and again. */
const progressOf =
  ({ onProgress }: ImageOptions) =>
  (said: string): void => {
    const last = said.match(/\((\d+(?:\.\d+)?)\/100%\)/g)?.at(-1)
    if (last !== undefined) onProgress?.(Number.parseFloat(last.slice(1)) / 100)
  }

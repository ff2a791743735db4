/**
 * A saved guest on disk: QEMU's migration stream behind a header of ours.
 *
 *   0     8   magic "TVSAVE1\n"
 *   8     4   size of the JSON, big-endian
 *   12    64  SHA-256 of the JSON, hexadecimal
 *   76    ..  JSON: whose it is, on which machine, the payload's size and SHA-256; zeros up to 4096
 *   4096  ..  payload
 *
 * The header is written last: a file of a save that did not end has no magic. A damaged, cut or foreign file is refused before QEMU
 * sees a byte of it.
 */
import { Fault, type Clock, type EpochMillis } from '@typevisor/base'
import type { DomainDevice, DomainHardware, DomainId } from '@typevisor/model'
import type { HostFiles } from './ports.ts'
import { numberOf, objectOf, parseObject, textOf } from './read-json.ts'

export const HEADER_SIZE = 4096
const MAGIC = 'TVSAVE1\n'
const JSON_OFFSET = 76
const JSON_SIZE_MAX = HEADER_SIZE - JSON_OFFSET

export interface SavedMachine {
  readonly domain: DomainId
  readonly machine: string
  readonly cpuModel: string
  readonly vcpuCount: number
  readonly memoryBytes: number
  /** What the guest sees of its devices, hashed. */
  readonly devicesSha256: string
}

export interface SaveHeader extends SavedMachine {
  readonly qemuVersion: string
  readonly savedAt: EpochMillis
  readonly payloadBytes: number
  readonly payloadSha256: string
}

/** Port forwards are the host's affair, and no part of what a guest sees. */
function guestView(device: DomainDevice): unknown {
  // Left out where there is none, so that what was saved before there were ports is what it was.
  const port = 'port' in device && device.port !== undefined ? [device.port] : []
  if (device.kind === 'nic') return [device.kind, device.name, device.address, device.mac, ...port]
  if (device.kind === 'memory') return [device.kind, device.name, device.address, device.sizeBytes]
  if (device.kind === 'disk') return [device.kind, device.name, device.address, device.serial, device.readOnly, ...port]
  if (device.kind === 'cd') return [device.kind, device.name, device.address, device.serial, device.medium, ...port]
  if (device.kind === 'usb') return [device.kind, device.name, device.address, device.serial, device.model]
  return [device.kind, device.name, device.address, ...port]
}

export function savedMachine(
  files: HostFiles,
  of: { readonly id: DomainId; readonly hardware: DomainHardware; readonly vcpuCount: number; readonly memoryBytes: number },
): SavedMachine {
  const digest = files.digest()
  digest.update(new TextEncoder().encode(JSON.stringify(of.hardware.devices.map(guestView))))
  const { machine, cpuModel } = of.hardware
  return { domain: of.id, machine, cpuModel, vcpuCount: of.vcpuCount, memoryBytes: of.memoryBytes, devicesSha256: digest.hex() }
}

export function encodeHeader(files: HostFiles, header: SaveHeader): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(header))
  if (json.length > JSON_SIZE_MAX) throw new Fault('internal', `save header: ${json.length} bytes, want at most ${JSON_SIZE_MAX}`)
  const digest = files.digest()
  digest.update(json)
  const block = new Uint8Array(HEADER_SIZE)
  block.set(new TextEncoder().encode(MAGIC), 0)
  new DataView(block.buffer).setUint32(8, json.length)
  block.set(new TextEncoder().encode(digest.hex()), 12)
  block.set(json, JSON_OFFSET)
  return block
}

/** @throws Fault `failed` saying what is wrong with the file. */
export function decodeHeader(files: HostFiles, path: string, block: Uint8Array): SaveHeader {
  const damaged = (what: string): Fault =>
    new Fault('failed', `restore from ${path}: ${what}; the file is damaged or no save of this platform`)
  const text = new TextDecoder('latin1')
  const magic = text.decode(block.subarray(0, 8))
  if (magic !== MAGIC) throw damaged(`magic ${JSON.stringify(magic)}, want ${JSON.stringify(MAGIC)}`)
  if (block.length < HEADER_SIZE) throw damaged(`${block.length} bytes, want at least ${HEADER_SIZE}`)
  const size = new DataView(block.buffer, block.byteOffset, block.byteLength).getUint32(8)
  if (size > JSON_SIZE_MAX) throw damaged(`header of ${size} bytes, want at most ${JSON_SIZE_MAX}`)
  const json = block.subarray(JSON_OFFSET, JSON_OFFSET + size)
  const digest = files.digest()
  digest.update(json)
  if (digest.hex() !== text.decode(block.subarray(12, JSON_OFFSET))) throw damaged('the checksum of the header does not match')
  const header = objectOf(parseObject(new TextDecoder().decode(json)))
  const names = ['domain', 'machine', 'cpuModel', 'devicesSha256', 'payloadSha256', 'qemuVersion'] as const
  const counts = ['vcpuCount', 'memoryBytes', 'payloadBytes', 'savedAt'] as const
  const bad = names.find((name) => textOf(header[name]) === null) ?? counts.find((name) => numberOf(header[name]) === null)
  if (bad) throw damaged(`header without ${bad}`)
  return header as unknown as SaveHeader // every field was looked at just above
}

/**
 * Reads the whole file once and compares it with what is to be restored.
 * @throws Fault `not_found` without a file; `failed` for a damaged one or one of another domain or machine.
 */
export async function checkSave(
  files: HostFiles,
  path: string,
  wanted: SavedMachine & { readonly vcpuCountMax: number },
  signal: AbortSignal,
): Promise<SaveHeader> {
  const block = await files.read(path, 0, HEADER_SIZE)
  if (!block) throw new Fault('not_found', `restore from ${path}: no such file`)
  const header = decodeHeader(files, path, block)
  // vCPUs come and go; the save says how many there were, and the machine has places for so many.
  const names = ['domain', 'machine', 'cpuModel', 'memoryBytes', 'devicesSha256'] as const
  for (const name of header.vcpuCount <= wanted.vcpuCountMax ? names : ([...names, 'vcpuCount'] as const)) {
    if (header[name] !== wanted[name]) {
      throw new Fault('failed', `restore from ${path}: the save has ${name} ${header[name]}, want ${wanted[name]}`)
    }
  }
  await checkPayload(files, path, header, signal)
  return header
}

/** The size of a whole and sound save of this domain at `path`; null: there is none. */
export async function wholeSave(files: HostFiles, path: string, id: DomainId, signal: AbortSignal): Promise<number | null> {
  try {
    const block = await files.read(path, 0, HEADER_SIZE)
    if (!block) return null
    const header = decodeHeader(files, path, block)
    if (header.domain !== id) return null
    await checkPayload(files, path, header, signal)
    return HEADER_SIZE + header.payloadBytes
  } catch (error) {
    if (error instanceof Fault && error.code === 'failed') return null
    throw error
  }
}

async function checkPayload(files: HostFiles, path: string, header: SaveHeader, signal: AbortSignal): Promise<void> {
  const digest = files.digest()
  let sizeBytes = 0
  for await (const chunk of files.stream(path, HEADER_SIZE)) {
    signal.throwIfAborted()
    digest.update(chunk)
    sizeBytes += chunk.length
  }
  if (sizeBytes !== header.payloadBytes) {
    throw new Fault(
      'failed',
      `restore from ${path}: ${sizeBytes} bytes behind the header, want ${header.payloadBytes}; the file is damaged`,
    )
  }
  if (digest.hex() !== header.payloadSha256)
    throw new Fault('failed', `restore from ${path}: the checksum does not match; the file is damaged`)
}

export const headerOf = (
  machine: SavedMachine,
  rest: { qemuVersion: string; clock: Clock; payloadBytes: number; payloadSha256: string },
): SaveHeader => ({
  ...machine,
  qemuVersion: rest.qemuVersion,
  savedAt: rest.clock.now(),
  payloadBytes: rest.payloadBytes,
  payloadSha256: rest.payloadSha256,
})

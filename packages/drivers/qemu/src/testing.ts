/** What tests of this driver need, and the conformance suite's factory. `tiny-guest.ts` is the guest. */
import { bytes, epochMillis, mib, type Clock, type IdSource, type Log } from '@typevisor/base'
import {
  parseDomainId,
  parseDomainName,
  parseImageName,
  parseVolumeId,
  type DomainBoot,
  type DomainSpec,
  type PortForward,
  type VolumeId,
} from '@typevisor/model'
import type { DriverDomain, VolumeAttachment } from '@typevisor/toolstack'
import * as runtime from '@typevisor/runtime-node'
import { planHardware } from './hardware.ts'
import { createNodeHost } from './node-host.ts'
import type { QemuHost } from './ports.ts'

export const testHost = (): QemuHost => createNodeHost(runtime)
export { tinyGuestDisk } from './tiny-guest.ts'

let idCount = 0
/** Unique in this process and, by its time, on this machine. */
export function testId(): string {
  idCount += 1
  const time = Date.now().toString(16).padStart(12, '0')
  const rest = ((Math.floor(Math.random() * 0xffff_ffff) << 8) + idCount) >>> 0
  return `${time.slice(0, 8)}-${time.slice(8)}-7000-8000-${rest.toString(16).padStart(12, '0')}`
}

export const testIds: IdSource = { next: testId }

export const testClock: Clock = {
  now: () => epochMillis(Date.now()),
  monotonic: () => performance.now(),
  sleep: (duration, options) =>
    new Promise((resolve, reject) => {
      const signal = options?.signal
      if (signal?.aborted) return reject(signal.reason)
      const abort = (): void => {
        clearTimeout(timer)
        reject(signal?.reason)
      }
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', abort)
        resolve()
      }, duration)
      signal?.addEventListener('abort', abort, { once: true })
    }),
}

export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {}, with: () => silentLog }

export interface TestDomainOptions {
  readonly id?: string
  readonly name?: string
  readonly memoryMib?: number
  readonly forwards?: readonly PortForward[]
  readonly boot?: DomainBoot
  /** By device name, the root disk first. */
  readonly volumes?: Readonly<Record<string, VolumeAttachment>>
}

export function testDomain(options: TestDomainOptions = {}): DriverDomain {
  const id = parseDomainId(options.id ?? testId())
  const name = parseDomainName(options.name ?? 'tiny')
  const spec: DomainSpec = {
    name,
    vcpuCount: 1,
    memoryBytes: mib(options.memoryMib ?? 32),
    image: parseImageName('tiny'),
    rootDiskBytes: bytes(1024 * 1024),
    cloudInit: { hostname: name, user: null, sshKeys: [], userData: null },
    forwards: options.forwards ?? [],
    labels: {},
  }
  const volumes = Object.entries(options.volumes ?? {}).map(([device, attachment]) => ({ device, volume: parseVolumeId(`${id}.${device}`), attachment }))
  return {
    id,
    name,
    spec,
    hardware: planHardware(
      id,
      spec,
      volumes.map(({ device, volume }) => ({ name: device, volume, readOnly: false })),
    ),
    boot: options.boot ?? { kind: 'disk' },
    volumes: Object.fromEntries(volumes.map(({ volume, attachment }) => [volume, attachment])) as Record<VolumeId, VolumeAttachment>,
  }
}

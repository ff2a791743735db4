/** What tests of this driver need: a driver on folders of its own, and domains with the guest of `tiny-guest.ts`. */
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
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
import type { DriverDomain, DriverEvent, SaveFolder, VolumeAttachment } from '@typevisor/toolstack'
import { createImageStore, MICRO_COMMAND_LINE, type Image } from '@typevisor/image'
import * as runtime from '@typevisor/runtime-node'
import { createQemuDriver, type QemuDriver, type QemuDriverOptions } from './driver.ts'
import { planHardware } from './hardware.ts'
import { createNodeHost } from './node-host.ts'
import type { QemuHost } from './ports.ts'
import { sweepingGuestDisk, tinyGuestDisk } from './tiny-guest.ts'

export { sweepingGuestDisk, tinyGuestDisk }

export const testHost = (): QemuHost => createNodeHost(runtime)

const CACHE = fileURLToPath(new URL('../../../../.cache/', import.meta.url))

/** The platform's own starter image, kept under `.cache` of the clone. */
export async function microImage(): Promise<Image> {
  const images = createImageStore({ folder: join(CACHE, 'images'), cacheFolder: join(CACHE, 'debian'), clock: testClock })
  const name = parseImageName('micro')
  const kept = await images.get(name)
  // One of an older recipe is another guest.
  const recipe = await stat(new URL('../../../image/src/micro.ts', import.meta.url))
  const isOfNow =
    kept?.boot.kind === 'kernel' &&
    kept.boot.commandLine === MICRO_COMMAND_LINE &&
    kept.boot.efiKernelPath !== undefined &&
    kept.builtAt > recipe.mtimeMs
  return kept && isOfNow ? kept : await images.build(name)
}

let idCount = 0
/** Unique in this process and, by its time, on this machine. */
export function testId(): string {
  idCount += 1
  const time = Date.now().toString(16).padStart(12, '0')
  const rest = ((Math.floor(Math.random() * 0xffff_ffff) << 8) + idCount) >>> 0
  return `${time.slice(0, 8)}-${time.slice(8)}-7000-8000-${rest.toString(16).padStart(12, '0')}`
}

export const testIds: IdSource = { next: testId }

/** Of a folder of saves from which nothing goes to another host. */
export const noTransfers: Pick<SaveFolder, 'read' | 'write'> = {
  read: () => assert.fail('nothing is read'),
  write: () => assert.fail('nothing is written'),
}

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
  readonly spec?: Partial<DomainSpec>
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
    ...options.spec,
  }
  const volumes = Object.entries(options.volumes ?? {}).map(([device, attachment]) => ({
    device,
    volume: parseVolumeId(`${id}.${device}`),
    attachment,
  }))
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
    volumes: Object.fromEntries(volumes.map(({ volume, attachment }) => [volume, attachment])) as Record<
      VolumeId,
      VolumeAttachment
    >,
  }
}

export interface Bench {
  readonly folder: string
  readonly driver: QemuDriver
  domain(options?: TestDomainOptions): Promise<DriverDomain>
  /** One that was made elsewhere is destroyed at the end too. */
  owns(domain: DriverDomain): void
  /** Another driver on the same folders. */
  open(options?: Partial<QemuDriverOptions>): QemuDriver
}

/** A driver on a folder of its own; all its domains are destroyed and the folder removed at the end. */
export async function bench(t: TestContext, options: Partial<QemuDriverOptions> = {}): Promise<Bench> {
  const folder = await mkdtemp(join(tmpdir(), 'tvq-'))
  const drivers: QemuDriver[] = []
  const domains: DriverDomain[] = []
  const open = (more: Partial<QemuDriverOptions> = {}): QemuDriver => {
    const driver = createQemuDriver({
      dataDir: join(folder, 'data'),
      runDir: join(folder, 'run'),
      host: testHost(),
      clock: testClock,
      ids: testIds,
      log: silentLog,
      accelerator: 'tcg',
      ...options,
      ...more,
    })
    drivers.push(driver)
    return driver
  }
  t.after(async () => {
    for (const driver of drivers) await driver.close()
    const last = open()
    for (const domain of domains) await last.destroy(domain.id)
    await last.close()
    await rm(folder, { recursive: true })
  })
  let diskCount = 0
  return {
    folder,
    driver: open(),
    open,
    owns: (domain) => void domains.push(domain),
    async domain(domainOptions = {}) {
      diskCount += 1
      const path = join(folder, `root${diskCount}.raw`)
      await writeFile(path, tinyGuestDisk())
      const domain = testDomain({ volumes: { root: { kind: 'file', path, format: 'raw' } }, ...domainOptions })
      domains.push(domain)
      return domain
    },
  }
}

export async function consoleText(
  driver: QemuDriver,
  domain: DriverDomain,
  isEnough: (text: string) => boolean,
  limitMs = 15_000,
): Promise<string> {
  const end = Date.now() + limitMs
  while (true) {
    const { content } = await driver.readConsole(domain.id, 0, 16 * 1024 * 1024)
    const text = new TextDecoder('latin1').decode(content)
    if (isEnough(text)) return text
    assert.ok(Date.now() < end, `the console never said enough: ${JSON.stringify(text.slice(-200))}`)
    await sleep(20)
  }
}

/** Collects the driver's events until `driver.close`. */
export function watch(driver: QemuDriver): DriverEvent[] {
  const seen: DriverEvent[] = []
  void (async () => {
    for await (const event of driver.events()) seen.push(event)
  })().catch(() => {})
  return seen
}

export async function until(isSo: () => boolean | Promise<boolean>, what: string, limitMs = 15_000): Promise<void> {
  const end = Date.now() + limitMs
  while (!(await isSo())) {
    assert.ok(Date.now() < end, `never: ${what}`)
    await sleep(20)
  }
}

export const last = (events: readonly DriverEvent[]): string => JSON.stringify(events.at(-1)?.state)

export async function running(b: Bench, options: TestDomainOptions = {}): Promise<DriverDomain> {
  const domain = await b.domain(options)
  await b.driver.create(domain)
  await b.driver.unpause(domain.id)
  await consoleText(b.driver, domain, (text) => text.includes('00000001\n'))
  return domain
}

export async function type(driver: QemuDriver, domain: DriverDomain, keys: string): Promise<void> {
  const stream = await driver.openConsole(domain.id)
  await stream.write(new TextEncoder().encode(keys))
  await sleep(150)
  stream.close()
}

export const pidOf = async (b: Bench, domain: DriverDomain): Promise<number> =>
  Number(await readFile(join(b.folder, 'run', domain.id, 'qemu.pid'), 'utf8'))

/** Every number one more than the one before: no byte is missing and none is there twice. */
export function assertCounts(text: string): void {
  const lines = text.slice(text.indexOf('boot\n') + 5).split('\n')
  for (let at = 0; at < lines.length - 1; at += 1) assert.equal(lines[at], at.toString(16).padStart(8, '0'))
}

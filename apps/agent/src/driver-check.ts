/**
 * Runs the conformance suite against a driver that somebody names, with domains and folders of its own: what else is on the host is left alone.
 *
 *   sim:    domains in memory, in this process
 *   qemu:   QEMU on this machine, with guests of the starter image, which is built where it is not there
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, type Clock, type IdSource, type Log, type Rng } from '@typevisor/base'
import { parseImageName } from '@typevisor/model'
import { createImageStore } from '@typevisor/image'
import { checkConformance, type ConformanceReport, type DriverWorld, type PromiseOutcome } from '@typevisor/toolstack'

export const DRIVER_URLS = ['sim:', 'qemu:'] as const
export type DriverUrl = (typeof DRIVER_URLS)[number]

export interface DriverCheckOptions {
  readonly clock: Clock
  readonly rng: Rng
  readonly ids: IdSource
  readonly log: Log
  /** Images are kept here. */
  readonly cacheFolder: string
  readonly progress?: (done: PromiseOutcome, at: { readonly count: number; readonly total: number }) => void
  /** What takes long before the first promise is tried. */
  readonly preparing?: (fraction: number, what: string) => void
  readonly signal?: AbortSignal | undefined
}

/** @throws Fault `invalid` that names what is known. */
export function parseDriverUrl(text: string): DriverUrl {
  const found = DRIVER_URLS.find((url) => url === text)
  if (found) return found
  const want = DRIVER_URLS.join(' or ')
  throw new Fault('invalid', `driver: got ${JSON.stringify(text.slice(0, 100))}, want ${want}`, {
    details: [{ path: 'url', want, got: text.slice(0, 100) }],
  })
}

export async function checkDriver(url: DriverUrl, options: DriverCheckOptions): Promise<ConformanceReport> {
  const { clock, progress, signal } = options
  const makeWorld = url === 'sim:' ? simWorld(options) : qemuWorld(options)
  const told = { now: () => clock.monotonic(), ...(progress ? { progress } : {}), signal }
  return checkConformance(url.replace(':', ''), makeWorld, told)
}

const simWorld =
  ({ clock, rng }: DriverCheckOptions) =>
  async (): Promise<DriverWorld> =>
    (await import('@typevisor/driver-sim')).simConformanceWorld(clock, rng, async (ms) => void (await sleep(ms)))

const qemuWorld =
  ({ clock, ids, log, cacheFolder, preparing, signal }: DriverCheckOptions) =>
  async (): Promise<DriverWorld> => {
    const [{ createNodeHost, qemuConformanceWorld }, runtime] = await Promise.all([
      import('@typevisor/driver-qemu'),
      import('@typevisor/runtime-node'),
    ])
    const images = createImageStore({ folder: `${cacheFolder}/images`, cacheFolder: `${cacheFolder}/debian`, clock, log })
    const name = parseImageName('micro')
    const image =
      (await images.get(name)) ?? (await images.build(name, { signal, ...(preparing ? { progress: preparing } : {}) }))
    return qemuConformanceWorld({ image, host: createNodeHost(runtime), clock, ids, log })
  }

/**
 * A domain that does not run moves to another host: what it is made of goes there, and it is there what it was here.
 *
 *   source   volumes (what is not zeros) --> saved memory --> firmware's memory --one stream, `content`--> target
 *   target   starts an empty one and ends it, to see that it can --> takes it in --> checks the save, puts NVRAM and TPM back --> writes down that
 *            all has come (`loaded`) --> waits for `go`, at which it is `stopped` or `saved` there
 *
 * Sagas, hand-over, questions and who decides what are those of a domain that runs (`migration.ts`): it is the source's until its step `copy` is
 * written down as done, which is when the target has said `loaded`. There is no process in which what has come could wait: that all of it has is
 * in the target's record of the domain, written before it says so. A target that is killed before gives it up at its next start, one that is
 * killed behind keeps it for `go` or `abandon`.
 *
 * Failure paths: what cannot be read or sent ends the step, which is undone: the target is asked to forget it, and the source has lost nothing,
 * since it only read. What cannot be taken in (a full store, a damaged save) is told to the source in the target's words.
 */
import { Fault, millis, toFault, type Clock } from '@typevisor/base'
import type { DomainId, DomainState, MigrationParameters, MigrationProgress, MigrationStatistics } from '@typevisor/model'
import {
  dataBytesOf,
  encodeContent,
  partsOfDisk,
  partsOfFile,
  type ContentPart,
  type ContentSection,
  type OpenVolume,
  type VolumeInfo,
} from '@typevisor/storage'
import type { CallOptions, MigrationStream } from './ports.ts'
import { seedVolume, type ToolstackServices } from './steps.ts'
import type { StoredDomain } from './stored-domain.ts'

/** The channel of its only stream, and the names of what is in it beside volumes. */
export const CONTENT = 'content'
export const MEMORY = 'memory'
export const FIRMWARE = 'firmware'

export type ColdState = DomainState & { readonly kind: 'stopped' | 'saved' }
export const isCold = (state: DomainState): state is ColdState => state.kind === 'stopped' || state.kind === 'saved'

/** What is made of the domain's own data elsewhere is not among them. */
export async function coldVolumes({ volumes }: Pick<ToolstackServices, 'volumes'>, id: DomainId): Promise<VolumeInfo[]> {
  return (await volumes.list({ prefix: `${id}.` })).filter((volume) => volume.id !== seedVolume(id))
}

/** @throws Fault `unsupported` where the store gives its volumes to guests alone. */
export function needContents(
  { volumes }: Pick<ToolstackServices, 'volumes'>,
  what: string,
): (id: VolumeInfo['id']) => Promise<OpenVolume> {
  if (volumes.open) return volumes.open.bind(volumes)
  throw new Fault('unsupported', `${what}: the volumes of this host are read by their guests alone; it can move while it runs`)
}

/** Before anything is begun. @throws Fault `unsupported`. */
export async function assertReadable(services: ToolstackServices, { id, name }: StoredDomain): Promise<void> {
  const open = needContents(services, `migrate ${name}`)
  for (const volume of await coldVolumes(services, id)) {
    await using _device = await open(volume.id)
  }
}

export interface ColdPeer {
  open(channel: string, options?: CallOptions): Promise<MigrationStream>
  /** Why it takes no more; null: it does not say. */
  whyNot(): Promise<Fault | null>
}

export interface ColdSending {
  readonly services: ToolstackServices
  readonly domain: StoredDomain
  readonly peer: ColdPeer
  /** Of this move and no other: where firmware's memory is kept meanwhile. */
  readonly move: string
  readonly parameters: MigrationParameters
  readonly signal: AbortSignal
  readonly onProgress: (progress: MigrationProgress) => void
}

/** Resolves when all is sent; the domain is as it was. Abort leaves it so too. */
export async function sendCold(sending: ColdSending): Promise<MigrationStatistics> {
  const { services, domain, peer, parameters, signal } = sending
  const startedAt = services.clock.monotonic()
  const sent = new Sent(sending)
  await sent.measure()
  const pace = new Pace(services.clock, parameters.bandwidthBytes)
  const stream = await peer.open(CONTENT, { signal })
  const cut = (): void => stream.close()
  signal.addEventListener('abort', cut, { once: true })
  try {
    for await (const chunk of encodeContent(sent.sections())) {
      signal.throwIfAborted()
      await stream.write(chunk).catch(async (error: unknown) => {
        signal.throwIfAborted()
        const why = await peer.whyNot()
        throw why === null ? error : new Fault(why.code, `migrate ${domain.name}: the other host: ${why.message}`, { cause: why })
      })
      await pace.passed(chunk.length, signal)
    }
    await stream.end()
  } catch (error) {
    stream.close()
    throw error
  } finally {
    signal.removeEventListener('abort', cut)
  }
  const totalMs = Math.round(services.clock.monotonic() - startedAt)
  return { totalMs, downtimeMs: 0, memoryBytes: sent.memoryBytes, diskBytes: sent.diskBytes }
}

class Sent {
  readonly #sending: ColdSending
  #volumes: readonly VolumeInfo[] = []
  #diskDataBytes = 0
  diskBytes = 0
  memoryBytes = 0

  constructor(sending: ColdSending) {
    this.#sending = sending
  }

  get #saved(): (DomainState & { kind: 'saved' }) | null {
    const { state } = this.#sending.domain
    return state.kind === 'saved' ? state : null
  }

  async measure(): Promise<void> {
    const { services, domain } = this.#sending
    const open = needContents(services, `migrate ${domain.name}`)
    this.#volumes = await coldVolumes(services, domain.id)
    for (const { id } of this.#volumes) {
      await using device = await open(id)
      this.#diskDataBytes += await dataBytesOf(device)
    }
  }

  async *sections(): AsyncGenerator<ContentSection, void, undefined> {
    const { services, domain, move } = this.#sending
    const { saves, driver } = services
    const open = needContents(services, `migrate ${domain.name}`)
    for (const { id } of this.#volumes) {
      await using device = await open(id)
      const parts = this.#counted(partsOfDisk(device), (count) => (this.diskBytes += count), 'disks')
      yield { name: id, sizeBytes: device.sizeBytes, parts }
    }
    if (this.#saved) {
      const { savePath, sizeBytes } = this.#saved
      const parts = this.#counted(partsOfFile(saves.read(savePath)), (count) => (this.memoryBytes += count), 'memory')
      yield { name: MEMORY, sizeBytes, parts }
    }
    const path = saves.pathOf(domain.id, `${move}-firmware`)
    const isKept = await driver.keepFirmware(domain, path)
    const kept = isKept ? await Array.fromAsync(saves.read(path)) : []
    yield { name: FIRMWARE, sizeBytes: kept.reduce((sum, { length }) => sum + length, 0), parts: partsOfFile(each(kept)) }
  }

  async *#counted(
    parts: AsyncIterable<ContentPart>,
    count: (lengthBytes: number) => void,
    phase: MigrationProgress['phase'],
  ): AsyncGenerator<ContentPart, void, undefined> {
    for await (const part of parts) {
      yield part
      count(part.content.length)
      this.#sending.onProgress({
        phase,
        memoryBytes: this.memoryBytes,
        memoryRemainingBytes: Math.max(0, (this.#saved?.sizeBytes ?? 0) - this.memoryBytes),
        diskBytes: this.diskBytes,
        diskRemainingBytes: Math.max(0, this.#diskDataBytes - this.diskBytes),
        dirtyBytesPerSecond: null,
      })
    }
  }
}

async function* each<T>(items: readonly T[]): AsyncGenerator<T, void, undefined> {
  yield* items
}

/** Not more in a second than is allowed, over all that was sent. */
class Pace {
  readonly #clock: Clock
  readonly #bytesPerSecond: number | undefined
  readonly #startedAt: number
  #sentBytes = 0

  constructor(clock: Clock, bytesPerSecond: number | undefined) {
    this.#clock = clock
    this.#bytesPerSecond = bytesPerSecond
    this.#startedAt = clock.monotonic()
  }

  async passed(count: number, signal: AbortSignal): Promise<void> {
    if (this.#bytesPerSecond === undefined) return
    this.#sentBytes += count
    const dueMs = this.#startedAt + (this.#sentBytes / this.#bytesPerSecond) * 1000 - this.#clock.monotonic()
    if (dueMs > 0) await this.#clock.sleep(millis(dueMs), { signal })
  }
}

/** What the other side says of it, if it says something that is not its silence. */
export async function toldBy(ask: () => Promise<void>): Promise<Fault | null> {
  try {
    await ask()
    return null
  } catch (error) {
    const fault = toFault(error)
    return ['unavailable', 'timeout', 'aborted'].includes(fault.code) ? null : fault
  }
}

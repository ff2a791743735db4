/** A domain that does not run comes from another host; `cold-sending.ts` has the design. */
import { assert, Fault, fieldFault, formatBytes } from '@typevisor/base'
import type { DomainState, MigrationRequest, VolumeId } from '@typevisor/model'
import { bytesOfFile, decodeContent, writeParts, type ContentSection } from '@typevisor/storage'
import { CONTENT, FIRMWARE, MEMORY, needContents, type ColdState } from './cold-sending.ts'
import type { CallOptions, DriverCapabilities, MigrationStream, MigrationTarget } from './ports.ts'
import type { ToolstackServices } from './steps.ts'
import type { StoredDomain } from './stored-domain.ts'

type Cold = MigrationRequest & { readonly cold: NonNullable<MigrationRequest['cold']> }
export const isColdRequest = (request: MigrationRequest): request is Cold => request.cold !== undefined

/** @throws Fault `conflict`, `unsupported`, `exhausted`. */
export async function assertTakesCold(
  services: ToolstackServices,
  { name, cold, accelerator }: Cold,
  can: DriverCapabilities,
): Promise<void> {
  const what = `receive ${name}`
  needContents(services, what)
  if (cold.savedBytes === null) return
  if (!can.save.can) throw new Fault('unsupported', `${what}: ${can.save.reason}`)
  if (accelerator !== can.accelerator)
    throw fieldFault({ path: 'accelerator', want: accelerator, got: can.accelerator }, { code: 'conflict', what })
  const freeBytes = await services.saves.freeBytes()
  if (freeBytes < cold.savedBytes) {
    const [got, want] = [formatBytes(freeBytes), formatBytes(cold.savedBytes)]
    throw new Fault('exhausted', `${what}: ${got} are free for its saved memory, want ${want}`)
  }
}

/** Whether this host could start it at all: its machine, processor, firmware and devices. Nothing of it is left. */
export async function assertStarts({ driver }: ToolstackServices, domain: StoredDomain, signal: AbortSignal): Promise<void> {
  await driver.create(domain, { signal })
  await driver.destroy(domain.id)
  await driver.forget(domain.id)
}

/** Two flashes and a TPM's state, with room to spare. */
const FIRMWARE_BYTES_MAX = 128 * 1024 * 1024

export class ColdTarget implements MigrationTarget {
  readonly #services: ToolstackServices
  readonly #domain: StoredDomain
  readonly #cold: Cold['cold']
  /** Of this move and no other. */
  readonly #move: string
  readonly #due: Set<string>
  readonly #whole = Promise.withResolvers<void>()
  readonly #over = new AbortController()
  #taking: Promise<void> | null = null

  constructor(services: ToolstackServices, domain: StoredDomain, { cold, disks }: Cold, move: string) {
    this.#services = services
    this.#domain = domain
    this.#cold = cold
    this.#move = move
    this.#due = new Set<string>([...disks.map(({ volume }) => volume), ...(cold.savedBytes === null ? [] : [MEMORY]), FIRMWARE])
    this.#whole.promise.catch(() => {})
  }

  async arrived(): Promise<void> {}

  async connect(channel: string): Promise<MigrationStream> {
    const { name } = this.#domain
    if (channel !== CONTENT)
      throw new Fault('not_found', `receive ${name}: got channel ${JSON.stringify(channel)}, want ${CONTENT}`)
    if (this.#taking) throw new Fault('conflict', `receive ${name}: its content came already`)
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>()
    const writer = writable.getWriter()
    writer.closed.catch(() => {})
    const broken = new Fault('unavailable', `receive ${name}: the stream was broken`)
    const cut = (): void => void writer.abort(this.#over.signal.reason ?? broken).catch(() => {})
    this.#over.signal.addEventListener('abort', cut, { once: true })
    const taking = this.#take(readable).then(this.#whole.resolve, (error: unknown) => {
      cut()
      this.#whole.reject(error)
    })
    this.#taking = taking
    return {
      // Nothing goes back; it ends when all was taken in, or could not be.
      readable: {
        [Symbol.asyncIterator]: () => ({ next: () => taking.then(() => ({ done: true, value: undefined })) }),
      },
      async write(content) {
        await writer.ready
        await writer.write(content)
      },
      end: () => writer.close(),
      close: cut,
    }
  }

  async disksDone(): Promise<void> {}

  async loaded({ signal }: CallOptions = {}): Promise<void> {
    if (!signal) return await this.#whole.promise
    const withdrawn = Promise.withResolvers<never>()
    const withdraw = (): void => withdrawn.reject(signal.reason)
    signal.addEventListener('abort', withdraw, { once: true })
    try {
      // Behind how it ended, where it has: that is what is asked for.
      if (signal.aborted) withdraw()
      await Promise.race([this.#whole.promise, withdrawn.promise])
    } finally {
      signal.removeEventListener('abort', withdraw)
    }
  }

  /** Nothing more is taken in. Resolves when nothing of it is open or being written any more. */
  async close(): Promise<void> {
    this.#over.abort(new Fault('aborted', 'the migration is over'))
    this.#whole.reject(this.#over.signal.reason)
    await this.#taking
  }

  get #memoryPath(): string {
    return this.#services.saves.pathOf(this.#domain.id, `${this.#move}-${MEMORY}`)
  }
  get #firmwarePath(): string {
    return this.#services.saves.pathOf(this.#domain.id, `${this.#move}-${FIRMWARE}`)
  }

  async #take(chunks: AsyncIterable<Uint8Array>): Promise<void> {
    let hasFirmware = false
    for await (const section of decodeContent(chunks)) {
      const { name, sizeBytes } = section
      if (!this.#due.delete(name)) throw new Fault('invalid', `receive ${this.#domain.name}: got ${name}, which is not due`)
      if (name === MEMORY) await this.#takeFile(section, this.#memoryPath)
      else if (name !== FIRMWARE) await this.#takeVolume(section)
      else {
        hasFirmware = sizeBytes > 0
        if (hasFirmware) await this.#takeFile(section, this.#firmwarePath)
        else await Array.fromAsync(section.parts)
      }
    }
    if (this.#due.size > 0) throw new Fault('failed', `receive ${this.#domain.name}: ${[...this.#due].join(', ')} did not come`)
    await this.#settle(hasFirmware)
  }

  async #takeVolume({ name, parts, sizeBytes }: ContentSection): Promise<void> {
    await using device = await needContents(this.#services, `receive ${this.#domain.name}`)(name as VolumeId) // one of those that were asked for
    if (sizeBytes > device.sizeBytes)
      throw new Fault('failed', `receive ${this.#domain.name}: volume ${name} has ${device.sizeBytes} bytes, want ${sizeBytes}`)
    await writeParts(device, parts)
  }

  async #takeFile(section: ContentSection, path: string): Promise<void> {
    const { name, sizeBytes } = section
    const wanted = name === MEMORY ? this.#cold.savedBytes : Math.min(sizeBytes, FIRMWARE_BYTES_MAX)
    if (sizeBytes !== wanted)
      throw new Fault('invalid', `receive ${this.#domain.name}: ${name} has ${sizeBytes} bytes, want ${wanted}`)
    await this.#services.saves.write(path, bytesOfFile(section))
  }

  /** From the end of this on it is kept over the end of this process. */
  async #settle(hasFirmware: boolean): Promise<void> {
    const { driver, saves, ledger } = this.#services
    const { id } = this.#domain
    const { savedBytes } = this.#cold
    const { signal } = this.#over
    if (savedBytes !== null) await driver.checkSave(this.#domain, this.#memoryPath, { signal })
    if (hasFirmware) await driver.putFirmwareBack(this.#domain, this.#firmwarePath, { signal })
    await saves.keepOnly(id, savedBytes === null ? [] : [this.#memoryPath])
    signal.throwIfAborted()
    const domain = ledger.need(id)
    assert(domain.migration?.role === 'incoming', 'it is expected')
    const arrives: ColdState =
      savedBytes === null
        ? { kind: 'stopped', cause: 'migrated', detail: null }
        : { kind: 'saved', savePath: this.#memoryPath, sizeBytes: savedBytes }
    await ledger.update({ ...domain, migration: { ...domain.migration, arrives } })
  }
}

/** @throws Fault `failed` when not all of it has come, and never will. */
export async function goCold({ ledger, moves }: ToolstackServices, { id, name }: StoredDomain): Promise<void> {
  await moves.arriving.get(id)?.close()
  moves.arriving.delete(id)
  const { migration, ...rest } = ledger.need(id)
  const arrives: DomainState | null | undefined = migration?.arrives
  if (!arrives) throw new Fault('failed', `go ${name}: not all of it had come`)
  await ledger.enter(id, arrives, { cause: 'migrated' }, rest)
  moves.incoming.get(id)?.close()
  moves.incoming.delete(id)
}

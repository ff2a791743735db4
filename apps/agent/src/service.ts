/** The agent's side of every method: the toolstack and the image store behind `AgentPort`. No wire here; `uplink.ts` has it. */
import { Fault, type Bytes, type Clock, type Log } from '@typevisor/base'
import {
  isLabel,
  parseDomainName,
  type AgentEvent,
  type DomainId,
  type ImageName,
  type MigrationProgress,
} from '@typevisor/model'
import { knownSpec } from '@typevisor/model/requests'
import type { ImageStore } from '@typevisor/image'
import type { MediaFolder, Toolstack } from '@typevisor/toolstack'
import {
  AGENT_PROTOCOL,
  type AgentHello,
  type AgentMethod,
  type AgentMethods,
  type AgentParams,
  type AgentPort,
  type AgentReply,
  type AgentStream,
  type DomainReply,
  type StreamKind,
  type StreamOptions,
  type VolumeServerStatus,
} from '@typevisor/api/agent-wire'
import { hostStatistics } from './metrics/host-statistics.ts'
import { fractionOf, wordsOf } from './migration/progress.ts'
import { SharedBuilds, toAgentImage } from './shared-builds.ts'

export interface AgentServiceOptions {
  readonly name: string
  readonly version: string
  readonly toolstack: Toolstack
  readonly images: ImageStore
  readonly cpuCount: number
  readonly memoryBytes: Bytes
  readonly clock: Clock
  readonly log: Log
  /** Left out where the host keeps none. */
  readonly media?: Pick<MediaFolder, 'list'> | undefined
  /** Left out where the host keeps none. */
  readonly volumeServer?: (() => VolumeServerStatus) | undefined
}

type Progress = (fraction: number, message: string) => void
type CallContext = { readonly signal: AbortSignal | undefined; readonly progress: Progress }
type Methods = { readonly [M in AgentMethod]: (params: AgentParams<M>, context: CallContext) => Promise<AgentReply<M>> }

export async function createAgentService(options: AgentServiceOptions): Promise<AgentPort & { refresh(): Promise<AgentHello> }> {
  const service = new AgentService(options)
  await service.refresh()
  return service
}

const base64 = (content: Uint8Array): string =>
  Buffer.from(content.buffer, content.byteOffset, content.byteLength).toString('base64')

class AgentService implements AgentPort {
  readonly #options: AgentServiceOptions
  #hello: AgentHello | null = null
  readonly #builds: SharedBuilds

  readonly #methods: Methods = {
    'domain.define': async ({ id, spec, commandId, fence }, { signal }) => {
      await this.#options.toolstack.define(id, knownSpec(spec), { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.carry-out': async ({ id, verb, commandId, fence, timeoutMs }, { signal }) => {
      await this.#options.toolstack.carryOut(verb, id, {
        commandId,
        fence,
        signal,
        ...(timeoutMs === undefined ? {} : { timeoutMs }),
      })
      return this.#reply(id)
    },
    'domain.snapshot': async ({ id, commandId, fence, ...request }, { signal }) => {
      await this.#options.toolstack.snapshot(id, request, { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.set': async ({ id, patch, commandId, fence, timeoutMs }, { signal }) => {
      const limit = timeoutMs === undefined ? {} : { timeoutMs }
      await this.#options.toolstack.set(id, patch, { commandId, fence, signal, ...limit })
      return this.#reply(id)
    },
    'domain.rename': async ({ id, name, commandId, fence }, { signal }) => {
      await this.#options.toolstack.rename(id, parseDomainName(name), { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.revert': async ({ id, snapshot, start, commandId, fence }, { signal }) => {
      await this.#options.toolstack.revert(id, snapshot, { commandId, fence, start, signal })
      return this.#reply(id)
    },
    'domain.snapshot-delete': async ({ id, snapshot, commandId, fence }, { signal }) => {
      await this.#options.toolstack.removeSnapshot(id, snapshot, { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.clone': async ({ id, spec, from, commandId, fence }, { signal }) => {
      await this.#options.toolstack.clone(id, knownSpec(spec), from, { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.migration-request': ({ id, parameters }) => this.#options.toolstack.migrationRequest(id, parameters),
    'domain.receive': (params, context) => this.#receive(params, context),
    'domain.receive-cold': (params, context) => this.#receive(params, context),
    'domain.migrate': ({ id, offer, parameters, commandId, fence }, { signal, progress }) => {
      const onProgress = (now: MigrationProgress): void => progress(fractionOf(now), wordsOf(now))
      return this.#options.toolstack.migrate(id, offer, { ...parameters, commandId, fence, signal, onProgress })
    },
    'domain.migrate-cancel': async ({ id, fence }, { signal }) => ({
      where: await this.#options.toolstack.cancelMigration(id, { fence, signal }),
    }),
    'domain.take-over': async ({ id, commandId, fence }, { signal }) => {
      await this.#options.toolstack.takeOverReceived(id, { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.abandon': async ({ id, commandId, fence }, { signal }) => {
      await this.#options.toolstack.abandonReceived(id, { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.take-back': async ({ id, commandId, fence }, { signal }) => {
      await this.#options.toolstack.takeBackMigrated(id, { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.attach': async ({ id, device, commandId, fence }, { signal }) => {
      await this.#options.toolstack.attach(id, device, { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.detach': async ({ id, name, commandId, fence, ...how }, { signal }) => {
      await this.#options.toolstack.detach(id, name, { ...how, commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.resize': async ({ id, name, sizeBytes, commandId, fence }, { signal }) => {
      await this.#options.toolstack.resizeDisk(id, name, sizeBytes, { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.medium': async ({ id, name, medium, commandId, fence }, { signal }) => {
      await this.#options.toolstack.changeMedium(id, name, medium, { commandId, fence, signal })
      return this.#reply(id)
    },
    'domain.devices': ({ id }) => this.#options.toolstack.devices(id),
    'domain.list': async () => ({ domains: this.#options.toolstack.list(), sequence: this.#options.toolstack.lastSequence() }),
    'domain.statistics': ({ id }, { signal }) => this.#options.toolstack.statistics(id, { signal }),
    'domain.addresses': ({ id }, { signal }) => this.#options.toolstack.addresses(id, { signal }),
    'domain.exec': async ({ id, argv, stdinBase64, timeoutMs }, { signal }) => {
      const stdin = stdinBase64 === undefined ? {} : { stdin: Buffer.from(stdinBase64, 'base64') }
      const { stdout, stderr, ...rest } = await this.#options.toolstack.exec(id, { argv, timeoutMs, ...stdin }, { signal })
      return { ...rest, stdoutBase64: base64(stdout), stderrBase64: base64(stderr) }
    },
    'domain.keys': async ({ id, chords }, { signal }) => {
      await this.#options.toolstack.sendKeys(id, chords, { signal })
      return {}
    },
    'domain.screenshot': async ({ id }, { signal }) => ({
      contentBase64: base64(await this.#options.toolstack.screenshot(id, { signal })),
    }),
    'domain.file-get': async ({ id, path, from, limit }, { signal }) => ({
      contentBase64: base64(await this.#options.toolstack.readGuestFile(id, path, from, limit, { signal })),
    }),
    'domain.file-put': async ({ id, path, contentBase64, append }, { signal }) => {
      await this.#options.toolstack.writeGuestFile(id, path, Buffer.from(contentBase64, 'base64'), { append, signal })
      return {}
    },
    'domain.password': async ({ id, user, password }, { signal }) => {
      await this.#options.toolstack.setGuestPassword(id, user, password, { signal })
      return {}
    },
    'domain.console-log': async ({ id, from, limit }, { signal }) => {
      const { content, ...offsets } = await this.#options.toolstack.readConsole(id, from, limit, { signal })
      return { ...offsets, contentBase64: base64(content) }
    },
    'host.volume-server': async () => this.#options.volumeServer?.() ?? null,
    'host.statistics': (_params, { signal }) => hostStatistics(this.#options, signal),
    'host.media': async () => (await this.#options.media?.list()) ?? [],
    'image.list': async () => (await this.#options.images.list()).map(toAgentImage),
    'image.build': async ({ name: label, commandId, fence }, { signal, progress }) => {
      if (!isLabel(label)) throw new Fault('invalid', `image: got ${JSON.stringify(label)}, want a name`)
      const name = label as ImageName
      const build = async (): Promise<void> => void (await this.#builds.build(name, { signal, progress }))
      // One that was done and whose image is not there any more is done again.
      if (
        !(await this.#options.toolstack.onceForImage(name, { commandId, fence }, build)) &&
        !(await this.#options.images.get(name))
      )
        await build()
      await this.refresh()
      const image = await this.#options.images.get(name)
      if (!image) throw new Fault('failed', `image ${name}: it was built, and is not there`)
      return toAgentImage(image)
    },
  }

  constructor(options: AgentServiceOptions) {
    this.#options = options
    this.#builds = new SharedBuilds(options.images)
  }

  /** As it is now: the domains are asked each time, the rest is what `refresh` found. */
  get hello(): AgentHello {
    if (!this.#hello) throw new Fault('unavailable', 'the agent is not ready')
    const { toolstack } = this.#options
    return { ...this.#hello, domains: toolstack.list(), sequence: toolstack.lastSequence(), journalId: toolstack.journalId() }
  }

  async refresh(): Promise<AgentHello> {
    const { toolstack, images, name, version, cpuCount, memoryBytes } = this.#options
    const can = await toolstack.capabilities()
    this.#hello = {
      protocol: AGENT_PROTOCOL,
      name,
      version,
      driver: can.driver,
      driverVersion: can.version,
      accelerator: can.accelerator,
      acceleratorReason: can.acceleratorReason,
      ...(can.guests ? { guests: can.guests } : {}),
      cpuCount,
      memoryBytes,
      images: (await images.list()).map(toAgentImage),
      domains: [],
      sequence: 0,
    }
    return this.hello
  }

  call<M extends AgentMethod>(
    method: M,
    params: AgentParams<M>,
    options: { signal?: AbortSignal | undefined; progress?: Progress | undefined } = {},
  ): Promise<AgentReply<M>> {
    if (!Object.hasOwn(this.#methods, method))
      return Promise.reject(new Fault('unsupported', `agent: no method ${String(method)}`))
    const run: (params: AgentMethods[M]['params'], context: CallContext) => Promise<AgentReply<M>> = this.#methods[method]
    return run(params, { signal: options.signal, progress: options.progress ?? (() => {}) })
  }

  events(after: number, options: { signal: AbortSignal }): AsyncIterable<AgentEvent> {
    return this.#options.toolstack.events(after, options)
  }
  acknowledge(sequence: number): Promise<void> {
    return this.#options.toolstack.acknowledge(sequence)
  }
  openStream(kind: StreamKind, domain: DomainId, options?: StreamOptions): Promise<AgentStream> {
    const { toolstack } = this.#options
    return kind === 'console' ? toolstack.openConsole(domain, options) : toolstack.openVnc(domain, options)
  }

  #receive(
    { id, request, channelCount, postCopy, commandId, fence }: AgentParams<'domain.receive'>,
    { signal }: CallContext,
  ): Promise<AgentReply<'domain.receive'>> {
    return this.#options.toolstack.receive(id, request, { commandId, fence, channelCount, postCopy, signal })
  }

  #reply(id: DomainId): DomainReply {
    const { toolstack } = this.#options
    return { domain: toolstack.get(id), sequence: toolstack.lastSequence() }
  }
}

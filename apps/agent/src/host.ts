/** A host opened: its toolstack over a driver, its images, behind one `AgentPort`. The folder is locked for as long as it is open. */
import { mkdir } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import { join } from 'node:path'
import { bytes, millis, toFault, type Fault } from '@typevisor/base'
import type { DomainId, DomainStateKind } from '@typevisor/model'
import type { AgentPort } from '@typevisor/api/agent-wire'
import { bootId, lockFile, nodeDisk } from '@typevisor/runtime-node'
import type { ImageStore } from '@typevisor/image'
import { stateFile } from '@typevisor/saga'
import { openToolstack, type Toolstack } from '@typevisor/toolstack'
import { MIGRATION_ADDRESS, type HostOptions } from './host-parts.ts'
import { agentLinks } from './migration/links.ts'
import { createAgentService } from './service.ts'
import { watchedDisk } from './watched-disk.ts'

export interface Host {
  /** For a server. */
  readonly agent: AgentPort
  /** For a program with no server. */
  readonly toolstack: Omit<Toolstack, 'close'>
  readonly images: ImageStore
  readonly driver: HostOptions['driver']
  runningCount(): number
  /** Asks each guest to power off, and cuts the power of those that do not; answers the names of those that go on all the same. */
  stopGuests(): Promise<readonly string[]>
  /** Resolves when the journal cannot be trusted any more: end the process and start anew. */
  readonly broken: Promise<Fault>
  close(): Promise<void>
}

const SHUTDOWN_LIMIT_MS = 30_000
const STOP_LIMIT_MS = 90_000
/** The memory of a host without guests of its own kind: more than any test asks for. */
const SIM_MEMORY_BYTES = bytes(64 * 1024 ** 4)

export async function openHost(options: HostOptions): Promise<Host> {
  const { dataDir, clock, log, ids } = options
  await mkdir(dataDir, { recursive: true, mode: 0o711 })
  await using building = new AsyncDisposableStack()
  building.use(lockFile(join(dataDir, 'agent.lock')))
  const stateDir = join(dataDir, 'state')
  await mkdir(stateDir, { recursive: true, mode: 0o700 })
  const parts =
    options.driver === 'qemu'
      ? await (await import('./qemu-host.ts')).qemuParts(options)
      : (await import('./sim-host.ts')).simParts(options)
  building.defer(() => parts.close?.())
  const broken = Promise.withResolvers<Fault>()
  const disk = watchedDisk(nodeDisk(stateDir), (error) => broken.resolve(toFault(error)))
  const state = stateFile({ disk, name: 'agent.journal', clock, log })
  const links = agentLinks({ address: options.migrationAddress ?? MIGRATION_ADDRESS, clock })
  const toolstack = await openToolstack({
    ...parts,
    links,
    state,
    clock,
    ids,
    log,
    owner: `agent:${options.name}`,
    bootId: options.bootId ?? bootId(),
  })
  building.defer(() => toolstack.close())
  parts.heldBy?.(toolstack)
  building.defer(() => parts.lastNotes?.())
  const agent = await createAgentService({
    name: options.name,
    version: options.version,
    toolstack,
    images: parts.images,
    cpuCount: availableParallelism(),
    memoryBytes: options.driver === 'sim' ? SIM_MEMORY_BYTES : bytes(totalmem()),
    clock,
    log,
    media: parts.media,
    volumeServer: parts.volumeServer,
  })
  const opened = building.move()
  let closing: Promise<void> | undefined
  return {
    agent,
    toolstack,
    images: parts.images,
    driver: options.driver,
    broken: broken.promise,
    runningCount: () =>
      toolstack.list().filter((domain) => domain.state.kind === 'running' || domain.state.kind === 'paused').length,
    async stopGuests() {
      const live = () =>
        toolstack.list().filter(({ state: { kind } }) => kind === 'running' || kind === 'paused' || kind === 'crashed')
      const stop = async (id: DomainId, kind: DomainStateKind): Promise<void> => {
        if (kind === 'running') {
          const asked = await toolstack
            .carryOut('shutdown', id, { commandId: ids.next(), timeoutMs: SHUTDOWN_LIMIT_MS })
            .then(() => true)
            .catch(() => false)
          if (asked) return
        }
        await toolstack.carryOut('poweroff', id, { commandId: ids.next() })
      }
      // What a command still holds is tried again when that has ended.
      const end = clock.monotonic() + STOP_LIMIT_MS
      while (live().length > 0 && clock.monotonic() < end) {
        await Promise.allSettled(live().map(({ id, state }) => stop(id, state.kind)))
        if (live().length > 0) await clock.sleep(millis(500))
      }
      return live().map((domain) => domain.name)
    },
    close: () => (closing ??= opened.disposeAsync()),
  }
}

/** A host opened: its toolstack over a driver, its images, behind one `AgentPort`. The folder is locked for as long as it is open. */
import { mkdir } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import { join } from 'node:path'
import { bytes } from '@typevisor/base'
import type { AgentPort } from '@typevisor/api/agent-wire'
import { lockFile, nodeDisk } from '@typevisor/runtime-node'
import { stateFile } from '@typevisor/saga'
import { openToolstack } from '@typevisor/toolstack'
import type { HostOptions } from './host-parts.ts'
import { createAgentService } from './service.ts'

export interface Host {
  readonly agent: AgentPort
  runningCount(): number
  /** Asks each guest to power off, and cuts the power of those that do not. */
  stopGuests(): Promise<void>
  close(): Promise<void>
}

const SHUTDOWN_LIMIT_MS = 30_000
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
  const state = stateFile({ disk: nodeDisk(stateDir), name: 'agent.journal', clock, log })
  const toolstack = await openToolstack({ ...parts, state, clock, log, owner: `agent:${options.name}` })
  building.defer(() => toolstack.close())
  const agent = await createAgentService({
    name: options.name,
    version: options.version,
    toolstack,
    images: parts.images,
    cpuCount: availableParallelism(),
    memoryBytes: options.driver === 'sim' ? SIM_MEMORY_BYTES : bytes(totalmem()),
    log,
  })
  const opened = building.move()
  let closing: Promise<void> | undefined
  return {
    agent,
    runningCount: () =>
      toolstack.list().filter((domain) => domain.state.kind === 'running' || domain.state.kind === 'paused').length,
    async stopGuests() {
      const live = toolstack.list().filter(({ state: { kind } }) => kind === 'running' || kind === 'paused' || kind === 'crashed')
      await Promise.all(
        live.map(async ({ id, state: { kind } }) => {
          try {
            if (kind !== 'running') throw new Error('it hears nothing')
            await toolstack.carryOut('shutdown', id, { commandId: ids.next(), timeoutMs: SHUTDOWN_LIMIT_MS })
          } catch {
            await toolstack.carryOut('poweroff', id, { commandId: ids.next() })
          }
        }),
      )
    },
    close: () => (closing ??= opened.disposeAsync()),
  }
}

/**
 * A driver whose domains' disks are served while the domain is there, and not otherwise.
 *
 *   create, restore   each disk gets its socket, by the path that it has now (the record may be of another boot), then the domain
 *   adopt             those of all domains first, since a QEMU that waits for its disk may not answer; then away with those of domains that are gone
 *   destroy           the domain first, then its disks' sockets
 */
import { toFault, type Log } from '@typevisor/base'
import type { DomainId } from '@typevisor/model'
import type { DomainDriver, DriverDomain } from '@typevisor/toolstack'
import type { VolumeKeeper } from './keeper.ts'

export interface AttachedDriverOptions {
  readonly driver: DomainDriver
  readonly volumes: Pick<VolumeKeeper, 'attach' | 'detach'>
  readonly socketPathOf: (volume: string) => string
  readonly log: Log
}

export function attachedDriver({ driver, volumes, socketPathOf, log }: AttachedDriverOptions): DomainDriver {
  /** Names of what is served for a domain. */
  const served = new Map<DomainId, readonly string[]>()

  const attach = async (domain: DriverDomain): Promise<DriverDomain> => {
    const names = Object.values(domain.volumes).flatMap((source) => (source.kind === 'nbd' ? [source.exportName] : []))
    if (names.length > 0) served.set(domain.id, names)
    await Promise.all(names.map((name) => volumes.attach(name, socketPathOf(name))))
    const now = Object.entries(domain.volumes).map(([id, source]) => [
      id,
      source.kind === 'nbd' ? { ...source, socketPath: socketPathOf(source.exportName) } : source,
    ])
    return { ...domain, volumes: Object.fromEntries(now) as DriverDomain['volumes'] } // the same keys
  }
  /** The domain is gone; what cannot be ended now harms nobody, and its volume's removal ends it. */
  const detach = async (id: DomainId): Promise<void> => {
    const names = served.get(id) ?? []
    served.delete(id)
    const ends = await Promise.allSettled(names.map((name) => volumes.detach(socketPathOf(name))))
    for (const end of ends)
      if (end.status === 'rejected') log.warn('volumes.not_detached', { domain: id, error: toFault(end.reason).message })
  }
  /** What did not come to be is served to nobody. */
  const making = async (domain: DriverDomain, make: (domain: DriverDomain) => Promise<void>): Promise<void> => {
    try {
      await make(await attach(domain))
    } catch (error) {
      const state = await driver.state(domain.id).catch(() => null)
      if (state?.kind === 'gone') await detach(domain.id)
      throw error
    }
  }

  return {
    name: driver.name,
    capabilities: (...args) => driver.capabilities(...args),
    planHardware: (...args) => driver.planHardware(...args),
    create: (domain, options) => making(domain, (now) => driver.create(now, options)),
    restore: (domain, path, options) => making(domain, (now) => driver.restore(now, path, options)),
    async destroy(id, options) {
      await driver.destroy(id, options)
      await detach(id)
    },
    async save(id, path, options) {
      const saved = await driver.save(id, path, options)
      await detach(id)
      return saved
    },
    async adopt(domains, options) {
      await Promise.all(
        domains.map((domain) =>
          attach(domain).catch((error: unknown) =>
            log.error('volumes.not_attached', { domain: domain.id, error: toFault(error).message }),
          ),
        ),
      )
      const states = await driver.adopt(domains, options)
      await Promise.all([...states].map(([id, { kind }]) => (kind === 'gone' ? detach(id) : undefined)))
      return states
    },
    checkSave: (...args) => driver.checkSave(...args),
    snapshotMemory: (...args) => driver.snapshotMemory(...args),
    freeze: (...args) => driver.freeze(...args),
    thaw: (...args) => driver.thaw(...args),
    unpause: (...args) => driver.unpause(...args),
    pause: (...args) => driver.pause(...args),
    requestShutdown: (...args) => driver.requestShutdown(...args),
    reset: (...args) => driver.reset(...args),
    state: (...args) => driver.state(...args),
    events: (...args) => driver.events(...args),
    forwards: (...args) => driver.forwards(...args),
    statistics: (...args) => driver.statistics(...args),
    openConsole: (...args) => driver.openConsole(...args),
    readConsole: (...args) => driver.readConsole(...args),
    openVnc: (...args) => driver.openVnc(...args),
    exec: (...args) => driver.exec(...args),
    addresses: (...args) => driver.addresses(...args),
    forget: (...args) => driver.forget(...args),
    close: () => driver.close(),
  }
}

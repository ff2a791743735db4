/**
 * A driver whose domains' disks are leased and served while the domain is there, and not otherwise.
 *
 *   create, restore   each disk is leased and gets its socket, by the path that it has now (the record may be of another boot), then the domain
 *   adopt             those of all domains first, since a QEMU that waits for its disk may not answer; then away with those of domains that are gone
 *   destroy, save     the domain first, then its disks' sockets, then their leases
 *   attach            the disk is leased and gets its socket, then the guest gets it; what does not come to be is served to nobody
 *   detach, eject     the guest first, then the socket, then the lease
 *   resize            no socket while the volume grows: QEMU waits for it, as it does for a server that was killed
 *
 * A domain that is there keeps what it was started with: its disk's epoch, or none, where an agent of before made it.
 */
import { toFault, type Log } from '@typevisor/base'
import type { DomainId, VolumeId } from '@typevisor/model'
import type { VolumeLeases } from '@typevisor/storage'
import { volumeNamed, volumeOf, type DomainDriver, type DriverDomain, type VolumeAttachment } from '@typevisor/toolstack'
import type { VolumeKeeper } from './keeper.ts'

export interface AttachedDriverOptions {
  readonly driver: DomainDriver
  readonly volumes: Pick<VolumeKeeper, 'attach' | 'detach'>
  readonly leases: Pick<VolumeLeases, 'take' | 'release'>
  readonly socketPathOf: (volume: string) => string
  readonly log: Log
}

/** Those that are served: their exports are named by the volume. */
const disksOf = ({ volumes }: DriverDomain): VolumeId[] =>
  Object.entries(volumes).flatMap(([id, source]) => (source.kind === 'nbd' ? [id as VolumeId] : [])) // keys of a record by volume

export function attachedDriver({ driver, volumes, leases, socketPathOf, log }: AttachedDriverOptions): DomainDriver {
  /** Volumes that are served for a domain. */
  const served = new Map<DomainId, readonly VolumeId[]>()

  const attach = async (domain: DriverDomain): Promise<DriverDomain> => {
    const ids = disksOf(domain)
    served.set(domain.id, ids)
    const attached = await Promise.all(
      ids.map(async (id) => {
        const socketPath = socketPathOf(id)
        return [id, { kind: 'nbd', socketPath, exportName: await volumes.attach(id, socketPath) }] as const
      }),
    )
    return { ...domain, volumes: { ...domain.volumes, ...Object.fromEntries(attached) } }
  }
  /** For a domain that is not there: what a caller that was killed may have left on its sockets is nobody's. */
  const lease = async (domain: DriverDomain): Promise<void> => {
    for (const id of disksOf(domain)) {
      await volumes.detach(socketPathOf(id))
      await leases.take(id)
    }
  }
  const serve = async (volume: VolumeId): Promise<VolumeAttachment> => {
    const socketPath = socketPathOf(volume)
    return { kind: 'nbd', socketPath, exportName: await volumes.attach(volume, socketPath) }
  }
  const isServed = (id: DomainId, volume: VolumeId): boolean => served.get(id)?.includes(volume) ?? false
  /** To a domain that is there. */
  const add = async (domain: DriverDomain, volume: VolumeId): Promise<DriverDomain> => {
    if (domain.volumes[volume]?.kind !== 'nbd') return domain
    if (!isServed(domain.id, volume)) {
      served.set(domain.id, [...(served.get(domain.id) ?? []), volume])
      await volumes.detach(socketPathOf(volume))
    }
    await leases.take(volume)
    return { ...domain, volumes: { ...domain.volumes, [volume]: await serve(volume) } }
  }
  /** Also what one before us has served, which was killed before its domain's record said so. */
  const drop = async (id: DomainId, volume: VolumeId): Promise<void> => {
    served.set(
      id,
      (served.get(id) ?? []).filter((each) => each !== volume),
    )
    await end(id, [volume])
  }
  /** The domain is gone; what cannot be ended now harms nobody, and its volume's removal ends it. */
  const detach = async (id: DomainId): Promise<void> => {
    const ids = served.get(id) ?? []
    served.delete(id)
    await end(id, ids)
  }
  const end = async (id: DomainId, ids: readonly VolumeId[]): Promise<void> => {
    const ends = await Promise.allSettled(
      ids.map(async (volume) => {
        await volumes.detach(socketPathOf(volume))
        await leases.release(volume)
      }),
    )
    for (const end of ends)
      if (end.status === 'rejected') log.warn('volumes.not_detached', { domain: id, error: toFault(end.reason).message })
  }
  /** What did not come to be is served to nobody. */
  const making = async <T>(domain: DriverDomain, make: (domain: DriverDomain) => Promise<T>): Promise<T> => {
    const isThere = (await driver.state(domain.id)).kind !== 'gone'
    try {
      served.set(domain.id, disksOf(domain))
      if (!isThere) await lease(domain)
      return await make(await attach(domain))
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
    planDevice: (...args) => driver.planDevice(...args),
    async attach(domain, device, options) {
      const volume = volumeOf(device)
      if (volume === null) return driver.attach(domain, device, options)
      try {
        await driver.attach(await add(domain, volume), device, options)
      } catch (error) {
        // A guest that has it, or may have, keeps it.
        const there = await driver.attachedDevices(domain.id).catch(() => null)
        const isGone = (await driver.state(domain.id).catch(() => null))?.kind === 'gone'
        if (isGone || there?.includes(device.name) === false) await drop(domain.id, volume)
        throw error
      }
    },
    async detach(id, name, options) {
      await driver.detach(id, name, options)
      await drop(id, volumeNamed(id, name))
    },
    attachedDevices: (...args) => driver.attachedDevices(...args),
    async changeMedium(domain, name, options) {
      const drive = domain.hardware.devices.find((device) => device.name === name)
      const volume = drive ? volumeOf(drive) : null
      await driver.changeMedium(volume === null ? domain : await add(domain, volume), name, options)
      if (volume === null) await drop(domain.id, volumeNamed(domain.id, name))
    },
    resizeDisk(domain, name, sizeBytes, grow, options) {
      const device = domain.hardware.devices.find((each) => each.name === name)
      const volume = device ? volumeOf(device) : null
      if (volume === null || domain.volumes[volume]?.kind !== 'nbd')
        return driver.resizeDisk(domain, name, sizeBytes, grow, options)
      const growUnused = async (): Promise<void> => {
        await volumes.detach(socketPathOf(volume))
        try {
          await grow()
        } finally {
          await serve(volume)
        }
      }
      return driver.resizeDisk(domain, name, sizeBytes, growUnused, options)
    },
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
    applySettings: (...args) => driver.applySettings(...args),
    receive: (domain, options) => making(domain, (now) => driver.receive(now, options)),
    takeOver: (...args) => driver.takeOver(...args),
    migrateTo: (...args) => driver.migrateTo(...args),
    takeBack: (...args) => driver.takeBack(...args),
    sendRest: (...args) => driver.sendRest(...args),
    receiving: (...args) => driver.receiving(...args),
    checkSave: (...args) => driver.checkSave(...args),
    snapshotMemory: (...args) => driver.snapshotMemory(...args),
    keepFirmware: (...args) => driver.keepFirmware(...args),
    putFirmwareBack: (...args) => driver.putFirmwareBack(...args),
    freeze: (...args) => driver.freeze(...args),
    thaw: (...args) => driver.thaw(...args),
    correctClock: (...args) => driver.correctClock(...args),
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
    readGuestFile: (...args) => driver.readGuestFile(...args),
    writeGuestFile: (...args) => driver.writeGuestFile(...args),
    setGuestPassword: (...args) => driver.setGuestPassword(...args),
    screenshot: (...args) => driver.screenshot(...args),
    sendKeys: (...args) => driver.sendKeys(...args),
    dumpCore: (...args) => driver.dumpCore(...args),
    rename: (...args) => driver.rename(...args),
    forget: (...args) => driver.forget(...args),
    close: () => driver.close(),
  }
}

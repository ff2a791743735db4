/**
 * The conformance suite of the `DomainDriver` port: one list of promises, run against every driver, by tests (`testing.ts`) and by `typevisor
 * driver check` (`conformance-report.ts`). What a driver says it cannot do is tested to be refused as `unsupported`; nothing is passed by being
 * left out.
 */
import assert from 'node:assert/strict'
import { Fault, gib, mib, type FaultCode } from '@typevisor/base'
import { deviceConformance } from './conformance-devices.ts'
import { guestConformance } from './conformance-guests.ts'
import type { ConformanceRunner } from './conformance-report.ts'
import {
  DRIVER_SETTING_NAMES,
  waitsForRoom,
  type DomainId,
  type DomainName,
  type DomainSettings,
  type DomainSpec,
  type Firmware,
  type ImageName,
  type DriverSettingName,
  type VolumeId,
} from '@typevisor/model'
import type {
  DomainDriver,
  DriverCapabilities,
  DriverDomain,
  DriverEvent,
  DriverState,
  GuestStream,
  VolumeAttachment,
  MigrationPeer,
  MigrationTarget,
  ReceiveOptions,
} from './ports.ts'

/** What the suite needs of a driver's world. Made once for the suite; `open` may be called again after `close`, over the same host. */
export interface DriverWorld {
  open(): Promise<DomainDriver>
  /** Boot and volumes of a bootable guest; called once a domain. */
  guest(
    id: DomainId,
  ): Promise<Pick<DriverDomain, 'boot' | 'volumes'> & { disks: readonly { name: string; volume: VolumeId; readOnly: boolean }[] }>
  /** A file path for a save. */
  savePath(id: DomainId): string
  damage(path: string): Promise<void>
  /** Keeps the disks of a paused domain as they are; what it answers puts them back, as often as it is called. */
  keepDisks(id: DomainId): Promise<() => Promise<void>>
  /** Resolves when the guest's userspace and agent answer. */
  untilBooted(driver: DomainDriver, id: DomainId): Promise<void>
  /** Ends the domain's process from outside, as `kill -9` does. */
  killProcess(id: DomainId): Promise<void>
  /** Lets the guest power itself off. */
  guestPowersOff(driver: DomainDriver, id: DomainId): Promise<void>
  /** Domains whose disk can be full. `fill` has a running guest write where there is no room any more; `cannot`: why this world has none. */
  readonly fullDisk:
    | {
        guest: DriverWorld['guest']
        fill(driver: DomainDriver, id: DomainId): Promise<void>
        makeRoom(id: DomainId): Promise<void>
      }
    | { readonly cannot: string }
  /** A command that counts: prints 1, 2, 3 ... at each run, kept in the guest's memory only. */
  readonly counter: readonly string[]
  readonly echo: readonly string[]
  /** Prints how many processors the guest uses. */
  readonly processors: readonly string[]
  /** Prints the guest's memory in KiB, without what the balloon holds or its kernel keeps for itself. */
  readonly memory: readonly string[]
  /** A new empty volume of a domain, as a driver opens it. */
  volume(id: DomainId, name: string, sizeBytes: number): Promise<{ volume: VolumeId; source: VolumeAttachment }>
  /** Names of the block devices that the guest sees, and MACs of its network interfaces; `cannot`: why this guest has no eyes. */
  readonly eyes:
    | {
        disks(driver: DomainDriver, id: DomainId): Promise<readonly string[]>
        macs(driver: DomainDriver, id: DomainId): Promise<readonly string[]>
        /** Writes to a disk of the guest and reads it back past every cache. */
        writes(driver: DomainDriver, id: DomainId, disk: string): Promise<void>
        sizeBytes(driver: DomainDriver, id: DomainId, disk: string): Promise<number>
        /** What is in the drive; null: nothing. */
        medium(driver: DomainDriver, id: DomainId): Promise<string | null>
        /** How it was begun, and whether it has a TPM. */
        beginning(driver: DomainDriver, id: DomainId): Promise<{ readonly firmware: Firmware; readonly tpm: boolean }>
        /** Has its UEFI firmware keep a variable. */
        writeNvram(driver: DomainDriver, id: DomainId, variable: string): Promise<void>
        /** Those variables that it keeps, sorted. */
        nvram(driver: DomainDriver, id: DomainId): Promise<readonly string[]>
      }
    | { readonly cannot: string }
  /** Gives time to the world while the suite waits. */
  pause(ms: number): Promise<void>
  close(): Promise<void>
}

export const isFault = (code: FaultCode) => (error: unknown) => {
  assert.ok(error instanceof Fault, `want a Fault, got ${String(error)}`)
  assert.equal(error.code, code, error.message)
  return true
}

const text = (content: Uint8Array): string => new TextDecoder().decode(content)

let counter = 0
function nextId(): DomainId {
  counter += 1
  const tail = (process.pid * 4096 + counter).toString(16).padStart(12, '0').slice(-12)
  return `0192f000-0000-7000-8000-${tail}` as DomainId
}

export function specOf(name: string, more: Partial<DomainSpec> = {}): DomainSpec {
  return {
    name: name as DomainName,
    vcpuCount: 1,
    memoryBytes: mib(192),
    image: 'micro' as ImageName,
    rootDiskBytes: gib(1),
    cloudInit: { hostname: name, user: null, sshKeys: [], userData: null },
    forwards: [],
    labels: {},
    ...more,
  }
}

export function describeConformance(
  name: string,
  makeWorld: () => Promise<DriverWorld>,
  { describe, before, after, test, observed }: ConformanceRunner,
): void {
  describe(`DomainDriver conformance: ${name}`, () => {
    let world: DriverWorld
    let driver: DomainDriver
    let can: DriverCapabilities
    let events: DriverEvent[]
    const made = new Set<DomainId>()

    const listen = (from: DomainDriver): void => {
      void (async () => {
        for await (const event of from.events()) events.push(event)
      })().catch(() => {})
    }

    const define = async (guest: DriverWorld['guest'] = world.guest, more: Partial<DomainSpec> = {}): Promise<DriverDomain> => {
      const id = nextId()
      made.add(id)
      const spec = specOf(`conformance-${counter}`, more)
      const { boot, volumes, disks } = await guest(id)
      const hardware = await driver.planHardware(id, spec, disks)
      return { id, name: spec.name, spec, hardware, boot, volumes }
    }
    const running = async (more: Partial<DomainSpec> = {}): Promise<DriverDomain> => {
      const domain = await define(world.guest, more)
      await driver.create(domain)
      await driver.unpause(domain.id)
      return domain
    }
    const until = async (what: string, ok: () => Promise<boolean> | boolean, limitMs = 60_000): Promise<void> => {
      const end = performance.now() + limitMs
      while (!(await ok())) {
        if (performance.now() > end) assert.fail(`${what}: not in ${limitMs} ms`)
        await world.pause(50)
      }
    }
    const untilState = (id: DomainId, kind: DriverState['kind']) =>
      until(`domain is ${kind}`, async () => (await driver.state(id)).kind === kind)
    const gone = async (domain: DriverDomain): Promise<void> => {
      await driver.destroy(domain.id)
      await driver.forget(domain.id)
      made.delete(domain.id)
    }

    const reopen = async (): Promise<DomainDriver> => {
      await driver.close()
      driver = observed(await world.open())
      listen(driver)
      return driver
    }

    before(async () => {
      world = await makeWorld()
      driver = observed(await world.open())
      events = []
      listen(driver)
      can = await driver.capabilities()
    })
    after(async () => {
      for (const id of made) {
        await driver.destroy(id).catch(() => {})
        await driver.forget(id).catch(() => {})
      }
      await driver.close()
      await world.close()
    })

    test('it says what it is and what it can do', () => {
      assert.ok(can.driver.length > 0 && can.version.length > 0 && can.acceleratorReason.length > 0)
      for (const capability of [can.save, can.console, can.vnc, can.guestAgent, can.statistics, can.liveMigration, can.hotplug]) {
        if (!capability.can) assert.ok(capability.reason.length > 0)
      }
    })

    test('the plan of the hardware is the same each time, with a versioned machine and no address twice', async () => {
      const id = nextId()
      const { disks } = await world.guest(id)
      const spec = specOf('planned')
      const first = await driver.planHardware(id, spec, disks)
      assert.deepEqual(await driver.planHardware(id, spec, disks), first)
      assert.match(first.machine, /\d/)
      const addresses = first.devices.map((device) => device.address)
      assert.equal(new Set(addresses).size, addresses.length)
      const mac = first.devices.find((device) => device.kind === 'nic')?.mac
      assert.match(mac ?? '', /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/)
      assert.equal(Number.parseInt((mac ?? '').slice(0, 2), 16) & 1, 0, 'no multicast address')
    })

    test('create makes it paused, twice is once, and destroy twice is once', async () => {
      const domain = await define()
      await driver.create(domain)
      assert.equal((await driver.state(domain.id)).kind, 'paused')
      await driver.create(domain)
      assert.equal((await driver.state(domain.id)).kind, 'paused')
      await driver.destroy(domain.id)
      assert.equal((await driver.state(domain.id)).kind, 'gone')
      await driver.destroy(domain.id)
      await gone(domain)
    })

    test('pause and unpause change the state, twice is once, and events tell of it', async () => {
      const domain = await running()
      await driver.unpause(domain.id)
      assert.equal((await driver.state(domain.id)).kind, 'running')
      await driver.pause(domain.id)
      await driver.pause(domain.id)
      assert.equal((await driver.state(domain.id)).kind, 'paused')
      await driver.unpause(domain.id)
      const kinds = () =>
        events.filter((event) => event.domain === domain.id && event.kind === 'state').map((event) => event.state.kind)
      await until('events of pause and unpause', () => kinds().includes('paused') && kinds().at(-1) === 'running')
      await gone(domain)
    })

    test('a verb on a domain that is not there is a conflict', async () => {
      const domain = await define()
      await assert.rejects(driver.pause(domain.id), isFault('conflict'))
      await assert.rejects(driver.unpause(domain.id), isFault('conflict'))
      await assert.rejects(driver.requestShutdown(domain.id), isFault('conflict'))
      await assert.rejects(driver.save(domain.id, world.savePath(domain.id)), isFault('conflict'))
      await assert.rejects(driver.snapshotMemory(domain.id, world.savePath(domain.id)), isFault('conflict'))
      await assert.rejects(driver.freeze(domain.id, 1000), isFault('conflict'))
      assert.equal((await driver.state(domain.id)).kind, 'gone')
    })

    test('the guest answers its agent: exec with output, exit code and stdin, addresses', async () => {
      const domain = await running()
      if (!can.guestAgent.can) {
        await assert.rejects(driver.exec(domain.id, { argv: world.echo, timeoutMs: 1000 }), isFault('unsupported'))
        return gone(domain)
      }
      await world.untilBooted(driver, domain.id)
      const echoed = await driver.exec(domain.id, { argv: [...world.echo, 'a b', '$HOME;*'], timeoutMs: 20_000 })
      assert.deepEqual([echoed.exitCode, text(echoed.stdout)], [0, 'a b $HOME;*\n'])
      assert.equal((await driver.exec(domain.id, { argv: ['/bin/false'], timeoutMs: 20_000 })).exitCode, 1)
      const stdin = new TextEncoder().encode('to the guest\n')
      assert.equal(
        text((await driver.exec(domain.id, { argv: ['/bin/cat'], stdin, timeoutMs: 20_000 })).stdout),
        'to the guest\n',
      )
      const missing = await driver.exec(domain.id, { argv: ['/no/such/command'], timeoutMs: 20_000 })
      assert.equal(missing.exitCode, 127)
      assert.match(text(missing.stderr), /no.such.command/)
      assert.equal((await driver.exec(domain.id, { argv: ['/etc/passwd'], timeoutMs: 20_000 })).exitCode, 126)
      const addresses = (await driver.addresses(domain.id)).flatMap((device) =>
        device.addresses.map((address) => address.address),
      )
      assert.ok(
        addresses.some((address) => /^\d+\.\d+\.\d+\.\d+$/.test(address) && !address.startsWith('127.')),
        addresses.join(' '),
      )
      await gone(domain)
    })

    test('a guest asked to shut down powers off, and its process is kept until destroy', async () => {
      const domain = await running()
      await world.untilBooted(driver, domain.id)
      await driver.requestShutdown(domain.id)
      await untilState(domain.id, 'powered-off')
      await until('the event', () => events.some((event) => event.domain === domain.id && event.state.kind === 'powered-off'))
      await gone(domain)
    })

    test('a guest that powers itself off is seen to', async () => {
      const domain = await running()
      await world.untilBooted(driver, domain.id)
      await world.guestPowersOff(driver, domain.id)
      await untilState(domain.id, 'powered-off')
      const state = await driver.state(domain.id)
      assert.equal(state.kind === 'powered-off' && state.cause, 'guest')
      await gone(domain)
    })

    test('reset boots the guest again, and an event tells of it', async () => {
      const domain = await running()
      await world.untilBooted(driver, domain.id)
      assert.equal(text((await driver.exec(domain.id, { argv: world.counter, timeoutMs: 20_000 })).stdout).trim(), '1')
      await driver.reset(domain.id)
      await until('the reset event', () => events.some((event) => event.domain === domain.id && event.kind === 'reset'))
      await world.pause(500)
      await world.untilBooted(driver, domain.id)
      assert.equal(text((await driver.exec(domain.id, { argv: world.counter, timeoutMs: 20_000 })).stdout).trim(), '1')
      await gone(domain)
    })

    test('a domain is renamed while it runs, twice is once, and when it is gone; nothing else of it changes', async () => {
      const domain = await running()
      for (let turn = 0; turn < 2; turn += 1) await driver.rename(domain.id, 'renamed' as DomainName)
      assert.equal((await driver.state(domain.id)).kind, 'running')
      await assert.rejects(driver.forget(domain.id), isFault('conflict'))
      await driver.destroy(domain.id)
      await driver.rename(domain.id, domain.name)
      await gone(domain)
    })

    test('save ends the domain, restore brings it back with its memory, paused', async () => {
      const domain = await running()
      if (!can.save.can) {
        await assert.rejects(driver.save(domain.id, world.savePath(domain.id)), isFault('unsupported'))
        return gone(domain)
      }
      await world.untilBooted(driver, domain.id)
      await driver.exec(domain.id, { argv: world.counter, timeoutMs: 20_000 })
      const path = world.savePath(domain.id)
      const { sizeBytes } = await driver.save(domain.id, path)
      assert.ok(sizeBytes > 0)
      assert.equal((await driver.state(domain.id)).kind, 'gone')
      assert.equal((await driver.save(domain.id, path)).sizeBytes, sizeBytes, 'twice is once')
      await assert.rejects(driver.save(domain.id, `${path}.other`), isFault('conflict'), 'another save is not that one')
      await driver.restore(domain, path)
      assert.equal((await driver.state(domain.id)).kind, 'paused')
      await driver.restore(domain, path)
      await driver.unpause(domain.id)
      assert.equal(text((await driver.exec(domain.id, { argv: world.counter, timeoutMs: 20_000 })).stdout).trim(), '2')
      await gone(domain)
    })

    test('a damaged save, or one of another domain, is refused and nothing is left behind', async () => {
      if (!can.save.can) return
      const domain = await running()
      const path = world.savePath(domain.id)
      await driver.save(domain.id, path)
      const other = await define()
      await driver.checkSave(domain, path)
      await assert.rejects(driver.checkSave(other, path), isFault('failed'))
      await assert.rejects(driver.checkSave(domain, `${path}.none`), isFault('not_found'))
      await assert.rejects(driver.restore(other, path), isFault('failed'))
      assert.equal((await driver.state(other.id)).kind, 'gone')
      await world.damage(path)
      await assert.rejects(driver.checkSave(domain, path), isFault('failed'))
      await assert.rejects(driver.restore(domain, path), isFault('failed'))
      assert.equal((await driver.state(domain.id)).kind, 'gone')
      await gone(domain)
    })

    const counted = async (domain: DriverDomain): Promise<string> =>
      text((await driver.exec(domain.id, { argv: world.counter, timeoutMs: 20_000 })).stdout).trim()

    test('a snapshot of memory leaves the domain paused; it goes on, and is brought back as often as its disks are', async () => {
      const domain = await running()
      const path = world.savePath(domain.id)
      if (!can.save.can) {
        await assert.rejects(driver.snapshotMemory(domain.id, path), isFault('unsupported'))
        return gone(domain)
      }
      await world.untilBooted(driver, domain.id)
      assert.equal(await counted(domain), '1')
      const { sizeBytes } = await driver.snapshotMemory(domain.id, path)
      assert.ok(sizeBytes > 0)
      assert.deepEqual(await driver.state(domain.id), { kind: 'paused', cause: 'requested' })
      assert.equal((await driver.snapshotMemory(domain.id, path)).sizeBytes, sizeBytes, 'twice is once')
      const putBack = await world.keepDisks(domain.id)
      await driver.unpause(domain.id)
      assert.deepEqual([await counted(domain), await counted(domain)], ['2', '3'], 'it goes on where it was')
      for (let again = 0; again < 2; again += 1) {
        await driver.destroy(domain.id)
        await putBack()
        await driver.restore(domain, path)
        assert.equal((await driver.state(domain.id)).kind, 'paused')
        await driver.unpause(domain.id)
        assert.deepEqual([await counted(domain), await counted(domain)], ['2', '3'], 'it counts from the snapshot on')
      }
      await gone(domain)
    })

    test('a paused domain stays paused behind a snapshot of its memory, and can be snapshotted and saved once more', async () => {
      if (!can.save.can) return
      const domain = await running()
      await world.untilBooted(driver, domain.id)
      assert.equal(await counted(domain), '1')
      await driver.pause(domain.id)
      const path = world.savePath(domain.id)
      for (const each of [path, `${path}.second`]) {
        await driver.snapshotMemory(domain.id, each)
        assert.deepEqual(await driver.state(domain.id), { kind: 'paused', cause: 'requested' })
      }
      await driver.save(domain.id, `${path}.save`)
      assert.equal((await driver.state(domain.id)).kind, 'gone')
      await driver.restore(domain, `${path}.save`)
      await driver.unpause(domain.id)
      assert.equal(await counted(domain), '2')
      await gone(domain)
    })

    const peerOf = (target: MigrationTarget): MigrationPeer => ({
      open: (channel, options) => target.connect(channel, options),
      disksDone: (options) => target.disksDone(options),
    })

    /** Another host, with what the domain is made of there; nothing of it is left. */
    async function elsewhere(
      domain: DriverDomain,
      body: (host: {
        readonly there: DomainDriver
        receive(options?: ReceiveOptions): Promise<MigrationTarget>
        /** How often it was counted there, once it answers. */
        counted(): Promise<string>
      }) => Promise<void>,
    ): Promise<void> {
      const other = await makeWorld()
      const there = observed(await other.open())
      try {
        await body({
          there,
          async receive(options) {
            const { boot, volumes } = await other.guest(domain.id)
            return await there.receive({ ...domain, boot, volumes }, options)
          },
          async counted() {
            await other.untilBooted(there, domain.id)
            const { stdout } = await there.exec(domain.id, { argv: world.counter, timeoutMs: 20_000 })
            return text(stdout).trim()
          },
        })
      } finally {
        await there.destroy(domain.id)
        await there.forget(domain.id)
        await there.close()
        await other.close()
      }
    }

    test('a domain goes to another host with its memory, is taken back as long as it was not taken over, and goes on where it was on any fault', async () => {
      const domain = await running()
      const nowhere: MigrationPeer = {
        open: async () => {
          throw new Fault('unavailable', 'there is no other host')
        },
        disksDone: async () => {},
      }
      if (!can.liveMigration.can) {
        await assert.rejects(driver.receive(domain), isFault('unsupported'))
        await assert.rejects(driver.migrateTo(domain.id, nowhere), isFault('unsupported'))
        return gone(domain)
      }
      await elsewhere(domain, async ({ there, receive, counted: countedThere }) => {
        await world.untilBooted(driver, domain.id)
        assert.equal(await counted(domain), '1')
        await assert.rejects(driver.migrateTo(domain.id, nowhere), (error) => error instanceof Fault)
        assert.equal(await counted(domain), '2', 'it goes on where it was')

        const first = await receive()
        assert.equal((await there.state(domain.id)).kind, 'paused')
        await assert.rejects(there.takeOver(domain.id), isFault('conflict'), 'not all has come')
        const withdrawn = new AbortController()
        const cutAtEnd: MigrationPeer = {
          ...peerOf(first),
          disksDone: async () => withdrawn.abort(new Fault('aborted', 'withdrawn')),
        }
        await assert.rejects(driver.migrateTo(domain.id, cutAtEnd, { signal: withdrawn.signal }), isFault('aborted'))
        assert.deepEqual([(await driver.state(domain.id)).kind, await counted(domain)], ['running', '3'])

        const second = await receive()
        await driver.migrateTo(domain.id, peerOf(second))
        await second.loaded()
        await assert.rejects(there.unpause(domain.id), isFault('conflict'), 'it was not taken over')
        await there.destroy(domain.id)
        for (let again = 0; again < 2; again += 1) await driver.takeBack(domain.id, true)
        assert.deepEqual([(await driver.state(domain.id)).kind, await counted(domain)], ['running', '4'])

        const third = await receive()
        const statistics = await driver.migrateTo(domain.id, peerOf(third))
        assert.ok(statistics.memoryBytes > 0 && statistics.totalMs >= statistics.downtimeMs)
        await third.loaded()
        for (let again = 0; again < 2; again += 1) await there.takeOver(domain.id)
        assert.equal((await there.state(domain.id)).kind, 'paused')
        await there.unpause(domain.id)
        await gone(domain)
        assert.equal(await countedThere(), '5', 'it goes on there')
      })
    })

    test('by post-copy a guest runs there before its memory has come, or that is refused', async () => {
      const domain = await running()
      await elsewhere(domain, async ({ there, receive, counted: countedThere }) => {
        const expect = () => receive({ postCopy: true })
        if (!can.postCopy?.can) {
          await assert.rejects(expect(), isFault('unsupported'))
          return gone(domain)
        }
        await world.untilBooted(driver, domain.id)
        assert.equal(await counted(domain), '1')
        const given = await expect()
        await driver.migrateTo(domain.id, peerOf(given), { postCopy: true })
        await there.destroy(domain.id)
        await driver.takeBack(domain.id, true)
        assert.deepEqual([(await driver.state(domain.id)).kind, await counted(domain)], ['running', '2'], 'not begun, it goes on')

        const target = await expect()
        const peer = peerOf(target)
        await driver.migrateTo(domain.id, peer, { postCopy: true, bandwidthBytes: 16 * 1024 * 1024 })
        assert.equal((await there.state(domain.id)).kind, 'paused')
        const rest = driver.sendRest(domain.id, peer)
        await target.loaded()
        const { goneOnAt } = await there.takeOver(domain.id, { goesOn: true })
        assert.ok(goneOnAt !== null)
        assert.equal((await there.state(domain.id)).kind, 'running')
        const taken = await there.receiving(domain.id)
        await Promise.all([rest, target.arrived(), taken?.arrived()])
        assert.deepEqual([await there.receiving(domain.id), (await there.takeOver(domain.id)).isWhole], [null, true])
        await driver.sendRest(domain.id, peer)
        await gone(domain)
        assert.equal(await countedThere(), '3', 'it goes on there')
      })
    })

    test('the guest freezes its file systems and thaws them; both twice are once', async () => {
      const domain = await running()
      if (!can.guestAgent.can) {
        await assert.rejects(driver.freeze(domain.id, 1000), isFault('unsupported'))
        return gone(domain)
      }
      await world.untilBooted(driver, domain.id)
      await driver.freeze(domain.id, 20_000)
      await assert.rejects(driver.exec(domain.id, { argv: world.echo, timeoutMs: 20_000 }), isFault('failed'))
      await driver.freeze(domain.id, 20_000)
      await assert.rejects(driver.exec(domain.id, { argv: world.echo, timeoutMs: 20_000 }), isFault('failed'))
      await driver.thaw(domain.id)
      await driver.thaw(domain.id)
      assert.equal((await driver.exec(domain.id, { argv: world.echo, timeoutMs: 20_000 })).exitCode, 0)
      await gone(domain)
    })

    test('the console is kept by absolute offset, and a live reader that begins at an offset misses and repeats nothing', async () => {
      const domain = await running()
      if (!can.console.can) {
        await assert.rejects(driver.openConsole(domain.id), isFault('unsupported'))
        return gone(domain)
      }
      await world.untilBooted(driver, domain.id)
      const stream: GuestStream = await driver.openConsole(domain.id, { fromOffset: 0 })
      let live = new Uint8Array()
      const reading = (async () => {
        for await (const part of stream.readable) live = new Uint8Array([...live, ...part])
      })()
      await stream.write(new TextEncoder().encode('echo marker-42\r'))
      await until('the echo', () => text(live).includes('marker-42'))
      await world.pause(200)
      stream.close()
      await reading
      const kept = await driver.readConsole(domain.id, 0, 1024 * 1024)
      assert.equal(kept.startOffset, 0)
      assert.equal(kept.endOffset, kept.content.length)
      assert.equal(text(kept.content.subarray(0, live.length)), text(live))
      const middle = await driver.readConsole(domain.id, 5, 7)
      assert.deepEqual([middle.startOffset, middle.endOffset, text(middle.content)], [5, 12, text(kept.content.subarray(5, 12))])
      await driver.destroy(domain.id)
      assert.ok(
        (await driver.readConsole(domain.id, 0, 1024 * 1024)).content.length >= live.length,
        'kept for a domain that is gone',
      )
      await gone(domain)
    })

    test('a port of the host that was left open is chosen, and told; a domain that is gone has none', async () => {
      const asked = [
        { protocol: 'tcp', hostPort: 0, guestPort: 80 },
        { protocol: 'udp', hostPort: 0, guestPort: 53 },
      ] as const
      const domain = await define(world.guest, { forwards: asked })
      await driver.create(domain)
      const told = await driver.forwards(domain.id)
      assert.deepEqual(told.map(({ protocol, guestPort }) => `${protocol} ${guestPort}`).toSorted(), ['tcp 80', 'udp 53'])
      assert.ok(told.every(({ hostPort }) => hostPort > 0))
      await driver.unpause(domain.id)
      assert.deepEqual(await driver.forwards(domain.id), told, 'as long as it runs')
      await driver.destroy(domain.id)
      await assert.rejects(driver.forwards(domain.id), isFault('conflict'))
      await gone(domain)
    })

    test('the screen speaks RFB, or is refused', async () => {
      const domain = await running()
      if (can.vnc.can) {
        const stream = await driver.openVnc(domain.id)
        for await (const part of stream.readable) {
          assert.match(text(part), /^RFB 003\./)
          break
        }
        stream.close()
      } else await assert.rejects(driver.openVnc(domain.id), isFault('unsupported'))
      await gone(domain)
    })

    test('files of the guest are written, added to and read piece by piece; passwords are set; what the guest refuses is told', async () => {
      const domain = await running()
      const { id } = domain
      if (!can.guestAgent.can) {
        await assert.rejects(driver.readGuestFile(id, '/x', 0, 1), isFault('unsupported'))
        await assert.rejects(driver.writeGuestFile(id, '/x', new Uint8Array(1)), isFault('unsupported'))
        await assert.rejects(driver.setGuestPassword(id, 'root', 'x'), isFault('unsupported'))
        return gone(domain)
      }
      await world.untilBooted(driver, id)
      const content = Uint8Array.from({ length: 700_001 }, (_, index) => (index * 31) >> 3)
      await driver.writeGuestFile(id, '/run/file', content)
      assert.deepEqual(await driver.readGuestFile(id, '/run/file', 0, 1 << 20), content)
      await driver.writeGuestFile(id, '/run/file', Uint8Array.of(1, 2, 3), { append: true })
      assert.deepEqual([...(await driver.readGuestFile(id, '/run/file', 699_999, 100))], [...content.subarray(-2), 1, 2, 3])
      assert.equal((await driver.readGuestFile(id, '/run/file', 5, 7)).length, 7)
      await driver.writeGuestFile(id, '/run/file', Uint8Array.of(9))
      assert.deepEqual([...(await driver.readGuestFile(id, '/run/file', 0, 100))], [9], 'written whole')
      await assert.rejects(driver.readGuestFile(id, '/no/such/file', 0, 1), isFault('failed'))
      await driver.setGuestPassword(id, 'root', 'a new one: ü')
      await assert.rejects(driver.setGuestPassword(id, 'nobody-at-all', 'x'), isFault('failed'))
      await gone(domain)
    })

    test('the screen is a picture, or refused', async () => {
      const domain = await running()
      if (can.vnc.can) {
        const picture = await driver.screenshot(domain.id)
        assert.deepEqual([...picture.subarray(0, 8)], [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a], 'a PNG')
        await driver.pause(domain.id)
        assert.ok((await driver.screenshot(domain.id)).length > 0, 'also of one that is paused')
      } else await assert.rejects(driver.screenshot(domain.id), isFault('unsupported'))
      await gone(domain)
    })

    test('keys are pressed in a guest that runs, or refused', async () => {
      const domain = await running()
      if (can.keyboard.can) {
        await driver.sendKeys(domain.id, [['ctrl', 'alt', 'f2'], ['a']])
        await driver.pause(domain.id)
        await assert.rejects(driver.sendKeys(domain.id, [['a']]), isFault('conflict'))
      } else await assert.rejects(driver.sendKeys(domain.id, [['a']]), isFault('unsupported'))
      await gone(domain)
    })

    test('a core dump leaves the domain as it was, running or paused, and is refused for one that is gone', async () => {
      const domain = await running()
      const path = world.savePath(domain.id)
      if (!can.coreDump.can) {
        await assert.rejects(driver.dumpCore(domain.id, path), isFault('unsupported'))
        return gone(domain)
      }
      await world.untilBooted(driver, domain.id)
      const before = events.length
      const { sizeBytes } = await driver.dumpCore(domain.id, path)
      assert.ok(sizeBytes > 0)
      assert.equal((await driver.state(domain.id)).kind, 'running')
      await driver.exec(domain.id, { argv: world.echo, timeoutMs: 20_000 })
      await driver.pause(domain.id)
      await driver.dumpCore(domain.id, path, { format: 'kdump' })
      assert.deepEqual(await driver.state(domain.id), { kind: 'paused', cause: 'requested' })
      const told = events.slice(before).filter((event) => event.domain === domain.id)
      assert.deepEqual(
        told.map(({ state }) => state.kind),
        ['paused'],
        'that it stood still for the dump is no news',
      )
      await driver.destroy(domain.id)
      await assert.rejects(driver.dumpCore(domain.id, path), isFault('conflict'))
      await gone(domain)
    })

    test("the guest's clock is set by the host's, or refused", async () => {
      const domain = await running()
      if (can.guestAgent.can) {
        await world.untilBooted(driver, domain.id)
        await driver.correctClock(domain.id)
        await driver.correctClock(domain.id)
      } else await assert.rejects(driver.correctClock(domain.id), isFault('unsupported'))
      await driver.destroy(domain.id)
      await assert.rejects(driver.correctClock(domain.id), isFault('conflict'))
      await gone(domain)
    })

    test('statistics count', async () => {
      const domain = await running()
      await world.untilBooted(driver, domain.id)
      const first = await driver.statistics(domain.id)
      await world.pause(300)
      const second = await driver.statistics(domain.id)
      assert.ok((second.cpuTimeNs ?? 0) > (first.cpuTimeNs ?? 0))
      assert.ok((second.residentBytes ?? 0) > 0)
      assert.ok(second.disks.some((disk) => disk.name === 'root'))
      await gone(domain)
    })

    test('domains outlive the driver, and the next one adopts them in the state that they are in', async () => {
      const [going, paused, killed, never] = [await running(), await running(), await running(), await define()]
      await driver.pause(paused.id)
      await driver.close()
      await world.killProcess(killed.id)
      driver = observed(await world.open())
      listen(driver)
      const seen = await driver.adopt([going, paused, killed, never])
      assert.deepEqual(
        [going, paused, killed, never].map(({ id }) => seen.get(id)?.kind),
        ['running', 'paused', 'gone', 'gone'],
      )
      const dead = seen.get(killed.id)
      assert.equal(dead?.kind === 'gone' && dead.cause, 'unknown')
      await driver.unpause(paused.id)
      assert.equal((await driver.state(paused.id)).kind, 'running')
      for (const domain of [going, paused, killed, never]) await gone(domain)
    })

    test('a process that is killed is seen to, with its cause', async () => {
      const domain = await running()
      await world.killProcess(domain.id)
      await until('the event', () => events.some((event) => event.domain === domain.id && event.state.kind === 'gone'))
      const told = events.find((event) => event.domain === domain.id && event.state.kind === 'gone')
      assert.equal(told?.state.kind === 'gone' && told.state.cause, 'process-failed')
      assert.equal((await driver.state(domain.id)).kind, 'gone')
      await gone(domain)
    })

    deviceConformance(test, () => ({ world, driver, can, running, define, until, gone, reopen }))
    guestConformance(test, () => ({ world, driver, can, running, define, until, gone, reopen }))

    test('a guest whose disk is full waits and goes on by itself when there is room, also under another driver; one that was paused meanwhile stays', async (t) => {
      const { fullDisk } = world
      if ('cannot' in fullDisk) return t.skip(fullDisk.cannot)
      const domain = await define(fullDisk.guest)
      const waits = () => until('it waits', async () => waitsForRoom(await driver.state(domain.id)))
      await driver.create(domain)
      await driver.unpause(domain.id)
      await world.untilBooted(driver, domain.id)
      await fullDisk.fill(driver, domain.id)
      await waits()
      await until('the event', () => events.some((event) => event.domain === domain.id && waitsForRoom(event.state)))
      await driver.close()
      driver = observed(await world.open())
      listen(driver)
      assert.deepEqual((await driver.adopt([domain])).get(domain.id), { kind: 'paused', cause: 'disk-full' })
      await fullDisk.makeRoom(domain.id)
      await untilState(domain.id, 'running')
      await fullDisk.fill(driver, domain.id)
      await waits()
      await driver.pause(domain.id)
      const requested = { kind: 'paused', cause: 'requested' }
      assert.deepEqual(await driver.state(domain.id), requested)
      await fullDisk.makeRoom(domain.id)
      await world.pause(500)
      assert.deepEqual(await driver.state(domain.id), requested)
      await driver.unpause(domain.id)
      await untilState(domain.id, 'running')
      await gone(domain)
    })

    const number = async (domain: DriverDomain, argv: readonly string[]): Promise<number> =>
      Number(text((await driver.exec(domain.id, { argv, timeoutMs: 20_000 })).stdout))
    const processors = (domain: DriverDomain) => number(domain, world.processors)
    const memory = (domain: DriverDomain) => number(domain, world.memory)
    /** As it is when it was set; asked twice, it is done once. */
    const set = async (domain: DriverDomain, settings: DomainSettings): Promise<DriverDomain> => {
      for (let time = 0; time < 2; time += 1)
        assert.deepEqual(await driver.applySettings(domain, settings, { timeoutMs: 30_000 }), { notes: [] })
      return { ...domain, settings }
    }
    const booted = async (domain: DriverDomain): Promise<DriverDomain> => {
      await driver.create(domain)
      await driver.unpause(domain.id)
      await world.untilBooted(driver, domain.id)
      return domain
    }
    const GROWS = { vcpuCountMax: 3, memoryBytesMax: mib(320) }

    test('the balloon is set while the guest runs, kept over stop and start, over a save and under another driver', async () => {
      const balloon = async (id: DomainId) => (await driver.statistics(id)).balloonBytes
      const isAt = (id: DomainId, size: number) => until(`the balloon leaves ${size}`, async () => (await balloon(id)) === size)
      let domain = await booted(await define())
      domain = await set(domain, { memoryTargetBytes: mib(128) })
      await isAt(domain.id, mib(128))
      await driver.close()
      driver = observed(await world.open())
      listen(driver)
      await driver.adopt([domain])
      domain = await set(domain, { memoryTargetBytes: mib(160) })
      await isAt(domain.id, mib(160))
      await driver.destroy(domain.id)
      await booted(domain)
      await isAt(domain.id, mib(160))
      if (can.save.can) {
        const path = world.savePath(domain.id)
        await driver.save(domain.id, path)
        await driver.restore(domain, path)
        await driver.unpause(domain.id)
        await isAt(domain.id, mib(160))
      }
      domain = await set(domain, {})
      await isAt(domain.id, mib(192))
      await gone(domain)
    })

    test('vCPUs are plugged and unplugged while the guest runs; a save and the next start have as many', async () => {
      let domain = await booted(await define(world.guest, GROWS))
      if (!can.settings.vcpuCount.can) {
        await assert.rejects(driver.applySettings(domain, { vcpuCount: 2 }, { timeoutMs: 1000 }), isFault('unsupported'))
        return gone(domain)
      }
      assert.equal(await processors(domain), 1)
      domain = await set(domain, { vcpuCount: 3 })
      assert.equal(await processors(domain), 3)
      assert.equal((await driver.statistics(domain.id)).vcpus?.length, 3)
      await driver.close()
      driver = observed(await world.open())
      listen(driver)
      await driver.adopt([domain])
      const fewer = async (settings: DomainSettings, count: number): Promise<void> => {
        if (can.vcpuUnplug.can) {
          domain = await set(domain, settings)
          assert.equal(await processors(domain), count)
        } else await assert.rejects(driver.applySettings(domain, settings, { timeoutMs: 1000 }), isFault('unsupported'))
      }
      await fewer({ vcpuCount: 2 }, 2)
      const count = can.vcpuUnplug.can ? 2 : 3
      await driver.pause(domain.id)
      await assert.rejects(driver.applySettings(domain, {}, { timeoutMs: 1000 }), isFault('conflict'))
      await driver.unpause(domain.id)
      if (can.save.can) {
        const path = world.savePath(domain.id)
        await driver.save(domain.id, path)
        await driver.restore(domain, path)
        await driver.unpause(domain.id)
        assert.equal(await processors(domain), count)
        await fewer({ vcpuCount: 1 }, 1)
      }
      await driver.destroy(domain.id)
      domain = await booted({ ...domain, settings: { vcpuCount: 2 } })
      assert.equal(await processors(domain), 2)
      await fewer({}, 1)
      domain = await set(domain, { vcpuCount: 3 })
      assert.equal(await processors(domain), 3)
      await driver.reset(domain.id)
      await world.pause(500)
      await world.untilBooted(driver, domain.id)
      assert.equal(await processors(domain), 3, 'a machine that is reset keeps them')
      await gone(domain)
    })

    test('memory is plugged and given back while the guest runs; a save and the next start have as much', async () => {
      let domain = await booted(await define(world.guest, GROWS))
      if (!can.settings.memoryBytes.can) {
        await assert.rejects(driver.applySettings(domain, { memoryBytes: mib(256) }, { timeoutMs: 1000 }), isFault('unsupported'))
        return gone(domain)
      }
      const atFirst = await memory(domain)
      const more = async () => Math.round(((await memory(domain)) - atFirst) / 1024)
      domain = await set(domain, { memoryBytes: mib(320) })
      assert.equal(await more(), 128)
      assert.equal((await driver.statistics(domain.id)).balloonBytes, mib(320))
      domain = await set(domain, { memoryBytes: mib(256), memoryTargetBytes: mib(224) })
      assert.equal(await more(), 64)
      await until('the balloon', async () => (await driver.statistics(domain.id)).balloonBytes === mib(224))
      if (can.save.can) {
        const path = world.savePath(domain.id)
        await driver.save(domain.id, path)
        await driver.restore(domain, path)
        await driver.unpause(domain.id)
        assert.equal(await more(), 64)
      }
      await driver.destroy(domain.id)
      await booted(domain)
      await until('the guest takes what is plugged', async () => (await more()) === 64)
      domain = await set(domain, {})
      assert.equal(await more(), 0)
      await gone(domain)
    })

    const HOST_SETTINGS: Pick<
      Required<DomainSettings>,
      'cpuWeight' | 'cpuCapPercent' | 'affinityHard' | 'affinitySoft' | 'diskLimits'
    > = {
      cpuWeight: 200,
      cpuCapPercent: 150,
      affinityHard: [[0]],
      affinitySoft: [[0]],
      diskLimits: [{ disk: 'root', bytesPerSecond: mib(64), operationsPerSecond: 5000 }],
    }

    test('what is the affair of the host alone is set and taken back of a domain that runs or is paused, or refused', async () => {
      let domain = await running()
      for (const name of Object.keys(HOST_SETTINGS) as (keyof typeof HOST_SETTINGS)[]) {
        const settings = { ...domain.settings, [name]: HOST_SETTINGS[name] }
        if (can.settings[name].can) domain = await set(domain, settings)
        else await assert.rejects(driver.applySettings(domain, settings, { timeoutMs: 1000 }), isFault('unsupported'))
      }
      await driver.destroy(domain.id)
      await driver.create(domain)
      assert.equal((await driver.state(domain.id)).kind, 'paused')
      domain = await set(domain, {})
      await gone(domain)
    })

    test('a start with a setting that cannot be is refused, and nothing is left behind', async () => {
      for (const name of DRIVER_SETTING_NAMES.filter(
        (each: DriverSettingName) => each in HOST_SETTINGS && !can.settings[each].can,
      )) {
        const domain = { ...(await define()), settings: HOST_SETTINGS }
        await assert.rejects(driver.create(domain), isFault('unsupported'), name)
        assert.equal((await driver.state(domain.id)).kind, 'gone')
        await gone(domain)
      }
    })

    test('settings of a domain that is not there are a conflict', async () => {
      const domain = await define()
      await assert.rejects(
        driver.applySettings(domain, { memoryTargetBytes: mib(128) }, { timeoutMs: 1000 }),
        isFault('conflict'),
      )
      await gone(domain)
    })

    test('a call that was aborted before it began changes nothing', async () => {
      const domain = await define()
      await assert.rejects(driver.create(domain, { signal: AbortSignal.abort(new Fault('aborted', 'withdrawn')) }))
      assert.equal((await driver.state(domain.id)).kind, 'gone')
    })
  })
}

export interface Suite {
  readonly world: DriverWorld
  readonly driver: DomainDriver
  readonly can: DriverCapabilities
  running(more?: Partial<DomainSpec>): Promise<DriverDomain>
  define(guest?: DriverWorld['guest'], more?: Partial<DomainSpec>): Promise<DriverDomain>
  until(what: string, ok: () => Promise<boolean> | boolean, limitMs?: number): Promise<void>
  gone(domain: DriverDomain): Promise<void>
  reopen(): Promise<DomainDriver>
}

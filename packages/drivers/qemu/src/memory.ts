/**
 * The guest's memory while it runs: what is plugged beside (virtio-mem), what the balloon takes away, and the pages that it lies in.
 *
 *   total = spec.memoryBytes + plugged        target <= total        QEMU's balloon counts without what virtio-mem has plugged
 *
 * virtio-mem and not DIMMs: it shrinks too, in steps of 2 MiB, and its guest needs no slots (QEMU docs/system/devices/virtio-mem).
 */
import { Fault, formatBytes } from '@typevisor/base'
import { memoryBytesOf, pluggedBytesOf, type DomainHardware, type DomainSettings, type DomainSpec } from '@typevisor/model'
import { deviceIds } from './command-line.ts'
import type { KernelFiles } from './ports.ts'
import { listOf, numberOf, objectOf } from './read-json.ts'
import { untilGuest, type GuestWork } from './vcpus.ts'

type Sized = Pick<DomainSpec, 'vcpuCount' | 'memoryBytes'>

/** For QMP's `balloon`. */
export const balloonOf = (spec: Sized, settings: DomainSettings = {}): number =>
  (settings.memoryTargetBytes ?? memoryBytesOf(spec, settings)) - pluggedBytesOf(spec, settings)

/** What is plugged now, of `query-memory-devices`. */
export const pluggedNow = (answer: unknown): number =>
  listOf(answer).reduce<number>((sum, device) => sum + (numberOf(objectOf(objectOf(device)['data'])['size']) ?? 0), 0)

/**
 * @returns what the guest has not taken up.
 * @throws Fault `timeout` when it does not take or give back in time what it is asked to.
 */
export async function setPlugged(work: GuestWork, hardware: DomainHardware, pluggedBytes: number): Promise<string[]> {
  const { machine, signal } = work
  const id = [...deviceIds(hardware)].find(([{ kind }]) => kind === 'memory')?.[1]
  if (id === undefined) throw new Fault('unsupported', `set ${machine.record.name}: its machine has no device for more memory`)
  const path = `/machine/peripheral/${id}`
  await machine.execute('qom-set', { path, property: 'requested-size', value: pluggedBytes }, { signal })
  if (machine.state.kind !== 'running') return ['it is paused: the guest takes or gives back memory when it goes on']
  const now = async () => pluggedNow(await machine.execute('query-memory-devices', {}, { signal }))
  if (await untilGuest(work, async () => (await now()) === pluggedBytes)) return []
  const [got, want] = [formatBytes(await now()), formatBytes(pluggedBytes)]
  throw new Fault(
    'timeout',
    `set ${machine.record.name}: of the memory that is plugged beside, the guest has ${got} in time, want ${want}; it takes part with a kernel that has virtio-mem`,
  )
}

const FIELD = (name: string) => new RegExp(`^${name}:\\s*(\\d+)`, 'm')

/** @throws Fault `exhausted` when the host has not so many huge pages free, with what to do. */
export async function assertHugePages(
  files: KernelFiles,
  { name, memoryBytes }: Pick<DomainSpec, 'name' | 'memoryBytes'>,
): Promise<void> {
  const text = (await files.read('/proc/meminfo')) ?? ''
  const count = (field: string): number => Number(FIELD(field).exec(text)?.[1] ?? 0)
  const pageBytes = count('Hugepagesize') * 1024
  const [total, free] = [count('HugePages_Total'), count('HugePages_Free') - count('HugePages_Rsvd')]
  if (pageBytes === 0) throw new Fault('unsupported', `start ${name}: the kernel of this host has no huge pages`)
  if (memoryBytes % pageBytes !== 0) {
    const want = `a multiple of ${formatBytes(pageBytes)}, the size of a huge page`
    throw new Fault('invalid', `start ${name}: memoryBytes: got ${memoryBytes}, want ${want}`, {
      details: [{ path: 'memoryBytes', want, got: String(memoryBytes) }],
    })
  }
  const wanted = memoryBytes / pageBytes
  if (free >= wanted) return
  throw new Fault(
    'exhausted',
    `start ${name}: ${wanted} huge pages of ${formatBytes(pageBytes)} wanted, of ${total} that the host has set aside ${free} are free; as root: sysctl vm.nr_hugepages=${total + wanted - free}`,
  )
}

/** `actual` of `query-balloon`, which has no word of what virtio-mem has plugged. */
export const balloonBytes = (balloon: unknown, plugged: number): number | null => {
  const actual = numberOf(objectOf(balloon)['actual'])
  return actual === null ? null : actual + plugged
}

/** What the form of resources holds, in the words that people type, and what it sends: only what is another than before. */
import { fieldFault, formatBytes, parseBytes } from '@typevisor/base'
import type { Body } from '@typevisor/api'
import type { SettingName } from '@typevisor/model'
import type { Instance } from '../../api/verbs.ts'
import { wholeOf } from '../../forms/whole.ts'

export interface ResourceDraft {
  readonly vcpuCount: string
  readonly memory: string
  readonly memoryTarget: string
  readonly cpuWeight: string
  readonly cpuCapPercent: string
  readonly affinityHard: string
}

/** By disk, as `limitText` says it; empty: none. */
export type LimitDrafts = Readonly<Record<string, string>>

type DiskLimit = Instance['settings']['diskLimits'][number]
type SetBody = Body<'instance.set'>

const text = (value: number | null): string => (value === null ? '' : String(value))
const size = (value: number | null): string => (value === null ? '' : formatBytes(value))

export const draftOf = ({ vcpuCount, memoryBytes, settings }: Instance): ResourceDraft => ({
  vcpuCount: String(vcpuCount),
  memory: size(memoryBytes),
  memoryTarget: size(settings.memoryTargetBytes),
  cpuWeight: text(settings.cpuWeight),
  cpuCapPercent: text(settings.cpuCapPercent),
  affinityHard: settings.affinityHard?.join(' ') ?? '',
})

/** `10 MiB/s, 200 operations/s`. */
export const limitText = ({ bytesPerSecond = 0, operationsPerSecond = 0 }: Omit<DiskLimit, 'disk'>): string =>
  [
    ...(bytesPerSecond > 0 ? [`${formatBytes(bytesPerSecond)}/s`] : []),
    ...(operationsPerSecond > 0 ? [`${operationsPerSecond} operations/s`] : []),
  ].join(', ')

export function limitsOf({ settings }: Instance, disks: readonly string[]): LimitDrafts {
  const text = (disk: string): string => limitText(settings.diskLimits.find((limit) => limit.disk === disk) ?? {})
  return Object.fromEntries(disks.map((disk) => [disk, text(disk)]))
}

const LIMIT_WANT = 'a size or a number of operations a second, or both: 10M/s, 200 operations/s'

/** What `limitText` says, and shorter: `10M/s, 200 ops/s`. @throws Fault `invalid` at the field. */
export function limitOf(disk: string, text: string): DiskLimit {
  const limit = { disk, bytesPerSecond: 0, operationsPerSecond: 0 }
  const wrong = () => fieldFault({ path: 'diskLimits', want: LIMIT_WANT, got: `${disk}: ${JSON.stringify(text)}` })
  for (const word of text.split(',').map((part) => part.trim())) {
    if (word === '') continue
    const operations = /^(\d{1,9}) *(?:operations|ops)(?:\/s)?$/i.exec(word)?.[1]
    const bytes = /^(.*\S) *\/s$/.exec(word)?.[1]
    if (operations !== undefined) limit.operationsPerSecond = Number(operations)
    else if (bytes === undefined) throw wrong()
    else
      try {
        limit.bytesPerSecond = parseBytes(bytes)
      } catch {
        throw wrong()
      }
  }
  return limit
}

/** What is empty is as at the creation. @throws Fault `invalid` of a size or a number that is none. */
export function bodyOf(draft: ResourceDraft, limits: LimitDrafts, instance: Instance): SetBody {
  const before = draftOf(instance)
  const changed = (Object.keys(draft) as (keyof ResourceDraft)[]).filter((key) => draft[key].trim() !== before[key])
  const given = (key: keyof ResourceDraft): string | null =>
    changed.includes(key) && draft[key].trim() ? draft[key].trim() : null
  const names: Readonly<Record<keyof ResourceDraft, SettingName>> = {
    vcpuCount: 'vcpuCount',
    memory: 'memoryBytes',
    memoryTarget: 'memoryTargetBytes',
    cpuWeight: 'cpuWeight',
    cpuCapPercent: 'cpuCapPercent',
    affinityHard: 'affinityHard',
  }
  const reset = changed.filter((key) => draft[key].trim() === '').map((key) => names[key])
  const number = (key: 'vcpuCount' | 'cpuWeight' | 'cpuCapPercent') => {
    const value = given(key)
    return value === null ? {} : { [key]: wholeOf(key, value) }
  }
  const bytes = (key: 'memory' | 'memoryTarget') => {
    const value = given(key)
    return value === null ? {} : { [names[key]]: parseBytes(value) }
  }
  const affinity = given('affinityHard')
  const limitsBefore = limitsOf(instance, Object.keys(limits))
  const diskLimits = Object.entries(limits).flatMap(([disk, said]) =>
    said.trim() === limitsBefore[disk] ? [] : [limitOf(disk, said)],
  )
  return {
    ...number('vcpuCount'),
    ...bytes('memory'),
    ...bytes('memoryTarget'),
    ...number('cpuWeight'),
    ...number('cpuCapPercent'),
    ...(affinity === null ? {} : { affinityHard: affinity.split(/\s+/) }),
    ...(diskLimits.length === 0 ? {} : { diskLimits }),
    ...(reset.length === 0 ? {} : { reset }),
  }
}

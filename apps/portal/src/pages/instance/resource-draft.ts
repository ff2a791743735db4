/** What the form of resources holds, in the words that people type, and what it sends: only what is another than before. */
import { formatBytes, parseBytes } from '@typevisor/base'
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

/** What is empty is as at the creation. @throws Fault `invalid` of a size or a number that is none. */
export function bodyOf(draft: ResourceDraft, instance: Instance): SetBody {
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
  return {
    ...number('vcpuCount'),
    ...bytes('memory'),
    ...bytes('memoryTarget'),
    ...number('cpuWeight'),
    ...number('cpuCapPercent'),
    ...(affinity === null ? {} : { affinityHard: affinity.split(/\s+/) }),
    ...(reset.length === 0 ? {} : { reset }),
  }
}

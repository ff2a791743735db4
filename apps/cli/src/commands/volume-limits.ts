/** `volume limit`: what a volume may do in a second. */
import { Fault, formatBytes } from '@typevisor/base'
import { LIMITS_MAX, type VolumeDescription, type VolumeLimits } from '@typevisor/storage'
import { sizeOf, type FlagTable } from '../flags.ts'
import type { VolumeVerb } from './volume-verb.ts'

export const LIMIT_FLAGS = {
  iops: { text: 'limit: operations a second, or none', value: 'N' },
  bandwidth: { text: 'limit: bytes a second, such as 50MiB, or none', value: 'SIZE' },
  burst: { text: 'limit: seconds of it that an idle volume saves up', value: 'SECONDS' },
} as const satisfies FlagTable

const NONE = 'none'

function countOf(flag: string, text: string, most: number): number {
  if (text === NONE) return 0
  if (!/^\d{1,15}$/.test(text) || Number(text) > most)
    throw new Fault('invalid', `${flag}: got ${JSON.stringify(text)}, want a whole number from 0 to ${most}, or ${NONE}`)
  return Number(text)
}

const bandwidthOf = (text: string): number =>
  text === NONE ? 0 : sizeOf('--bandwidth', text.replace(/\/s$/, ''), { least: 0, most: LIMITS_MAX.bytesPerSecondMax })

export function limitsText({ iopsMax, bytesPerSecondMax, burstSeconds }: VolumeLimits): string {
  const parts = [
    ...(iopsMax > 0 ? [`${iopsMax} operations/s`] : []),
    ...(bytesPerSecondMax > 0 ? [`${formatBytes(bytesPerSecondMax)}/s`] : []),
  ]
  if (parts.length === 0) return 'no limit'
  return [...parts, ...(burstSeconds > 0 ? [`bursts of ${burstSeconds} s`] : [])].join(', ')
}

export const LIMIT_VERBS: Readonly<Record<string, VolumeVerb>> = {
  limit: {
    usage: 'typevisor volume limit NAME [--iops N] [--bandwidth SIZE] [--burst SECONDS] --dir DIR',
    words: [1, 1],
    flags: Object.keys(LIMIT_FLAGS),
    async run(call, [name = ''], { iops, bandwidth, burst }, terminal, json) {
      const limits: { -readonly [K in keyof VolumeLimits]?: number } = {}
      if (iops !== undefined) limits.iopsMax = countOf('--iops', iops, LIMITS_MAX.iopsMax)
      if (bandwidth !== undefined) limits.bytesPerSecondMax = bandwidthOf(bandwidth)
      if (burst !== undefined) limits.burstSeconds = countOf('--burst', burst, LIMITS_MAX.burstSeconds)
      const isAsked = Object.keys(limits).length === 0
      const found = isAsked ? await described(call, name) : await call('limit', { name, ...limits })
      terminal.out(json ? JSON.stringify(found) : `${found.name}: ${limitsText(found.limits)}`)
    },
  },
}

async function described(call: Parameters<VolumeVerb['run']>[0], name: string): Promise<VolumeDescription> {
  const found = (await call('list', {})).find((each) => each.name === name)
  if (!found) throw new Fault('not_found', `volume ${JSON.stringify(name)}: there is none`)
  return found
}

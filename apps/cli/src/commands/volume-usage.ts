import { formatBytes } from '@typevisor/base'
import type { VolumeUsage } from '@typevisor/storage'
import { renderTable } from '../table.ts'

const FULL_FIRST = { store: 'the store', host: 'the file system' } as const

/** What `volume usage` shows. */
export function renderUsage(usage: VolumeUsage, width: number): string {
  const { usedBytes, availableBytes, capacityBytes, usedPercent, limitedBy, warningPercent, journalUsedBytes, journalBytes } =
    usage
  const lines = [
    `used       ${formatBytes(usedBytes)} of ${formatBytes(capacityBytes)} (${usedPercent.toFixed(1)} %)`,
    `available  ${formatBytes(availableBytes)}; ${FULL_FIRST[limitedBy]} would be full first`,
    `journal    ${formatBytes(journalUsedBytes)} of ${formatBytes(journalBytes)}`,
    ...(warningPercent === null ? [] : [`WARNING    more than ${warningPercent} % is used; writes fail when nothing is left`]),
  ]
  if (usage.volumes.length === 0) return lines.join('\n')
  const table = renderTable(
    usage.volumes,
    [
      { title: 'NAME', value: ({ name }) => name },
      { title: 'KIND', value: ({ kind }) => kind },
      { title: 'SIZE', value: ({ sizeBytes }) => formatBytes(sizeBytes), right: true },
      { title: 'OWN', value: ({ ownBytes }) => (ownBytes === null ? 'not counted' : formatBytes(ownBytes)), right: true },
    ],
    width,
  )
  return [...lines, '', table].join('\n')
}

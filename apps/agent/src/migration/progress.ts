import { formatBytes } from '@typevisor/base'
import type { MigrationProgress } from '@typevisor/model'

/** In [0, 1]: disks are the first half, memory the second. */
export function fractionOf({ phase, ...now }: MigrationProgress): number {
  const part = (done: number, left: number): number => (done + left === 0 ? 0 : done / (done + left))
  switch (phase) {
    case 'disks':
      return part(now.diskBytes, now.diskRemainingBytes) / 2
    case 'memory':
      return 0.5 + part(now.memoryBytes, now.memoryRemainingBytes) / 2
    case 'switchover':
    case 'fetched':
      return 1
  }
}

export function wordsOf({ phase, ...now }: MigrationProgress): string {
  switch (phase) {
    case 'disks':
      return `disks: ${formatBytes(now.diskBytes)}, ${formatBytes(now.diskRemainingBytes)} left`
    case 'memory': {
      const rate = now.dirtyBytesPerSecond ? `, ${formatBytes(now.dirtyBytesPerSecond)} a second written anew` : ''
      return `memory: ${formatBytes(now.memoryBytes)}, ${formatBytes(now.memoryRemainingBytes)} left${rate}`
    }
    case 'switchover':
      return 'switchover'
    case 'fetched':
      return `it runs there; memory: ${formatBytes(now.memoryBytes)}, ${formatBytes(now.memoryRemainingBytes)} left`
  }
}

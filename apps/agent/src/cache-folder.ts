import { join } from 'node:path'
import { isRoot } from '@typevisor/runtime-node'

/** What may be fetched again is kept here, for all that run as this user. */
export const cacheFolder = (): string =>
  isRoot()
    ? '/var/cache/typevisor'
    : join(process.env['XDG_CACHE_HOME'] ?? join(process.env['HOME'] ?? '/', '.cache'), 'typevisor')

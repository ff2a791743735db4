/** Zstandard (RFC 8878) as Node has it. */
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { Fault } from '@typevisor/base'
import type { Compressor } from './store/ports.ts'

export const nodeCompressor: Compressor = {
  compress: (content) => zstdCompressSync(content),
  expand(content, sizeBytes) {
    try {
      return zstdDecompressSync(content, { maxOutputLength: sizeBytes })
    } catch (error) {
      throw new Fault('failed', `zstd: ${(error as Error).message}`, { cause: error })
    }
  },
}

/** Zstandard (RFC 8878) as Node has it. */
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { Fault } from '@typevisor/base'
import type { Compressor } from './store/ports.ts'

/** What `compress` uses at most (2 MiB). A frame that asks for more is none of ours, and would have it taken before a byte has come out. */
const WINDOW = { [constants.ZSTD_d_windowLogMax]: 21 }

export const nodeCompressor: Compressor = {
  compress: (content) => zstdCompressSync(content),
  expand(content, sizeBytes) {
    try {
      return zstdDecompressSync(content, { maxOutputLength: sizeBytes, params: WINDOW })
    } catch (error) {
      throw new Fault('failed', `zstd: ${(error as Error).message}`, { cause: error })
    }
  },
}

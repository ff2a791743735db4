/** What diffs, exports and imports ask of a store. The bytes themselves go over NBD. */
import { diffPage, type DiffPage } from '../store/diff.ts'
import {
  abortStream,
  beginExport,
  beginImage,
  beginStream,
  finishImage,
  finishStream,
  listImports,
  markStream,
  takeAway,
  type ImportStatus,
  type StreamTarget,
} from '../store/transfers.ts'
import type { CompressionKind } from '../store/catalog.ts'
import type { Store, VolumeOptions } from '../store/store.ts'
import { secretOf } from './secret.ts'

/** Extents in one answer. */
export const DIFF_COUNT_MAX = 4096

/** `secret`: the content of a key file, in base64. */
export interface VolumeForm {
  readonly compression?: CompressionKind
  readonly secret?: string
}

export interface TransferCommands {
  /** Over `from`; left out: over nothing. `offset` in bytes. */
  diff: { args: { from?: string; to: string; offset: number; countMax?: number }; answer: DiffPage }
  imports: { args: Record<string, never>; answer: ImportStatus[] }
  /** What the volume is made as, of a whole stream; the key file of an increment's base, or of an import that goes on, unlocks that. */
  importBegin: { args: StreamTarget & VolumeForm; answer: ImportStatus }
  importMark: { args: { name: string; positionBytes: number }; answer: null }
  importFinish: { args: StreamTarget & { createdAt: number }; answer: null }
  importAbort: { args: { name: string }; answer: null }
  imageBegin: { args: { name: string; sizeBytes: number } & VolumeForm; answer: { exportName: string } }
  /** Under its name, which is the answer. */
  imageFinish: { args: { exportName: string }; answer: { name: string } }
  /** The volume as it is now, to be read under that name. */
  exportBegin: { args: { name: string }; answer: { exportName: string } }
  /** Ends an image or an export. */
  takeAway: { args: { exportName: string }; answer: null }
}

export const TRANSFER_TEXT_ARGS = ['from', 'to', 'snapshotId', 'baseId', 'baseName', 'exportName'] as const
export const TRANSFER_NUMBER_ARGS = ['offset', 'countMax', 'startBytes', 'positionBytes', 'createdAt'] as const

/** Who serves the store. */
export interface Serving {
  readonly store: Store
  /** Resolves when no connection uses an export any more. */
  left(exportName: string): Promise<void>
  /** @throws Fault `conflict` while a connection uses it. */
  assertUnused(name: string, what: string): void
}

const optionsOf = ({ compression, secret }: { [K in keyof VolumeForm]?: VolumeForm[K] | undefined }): VolumeOptions => ({
  ...(compression === undefined ? {} : { compression }),
  ...(secret === undefined ? {} : { secret: secretOf(secret) }),
})

type Table = { [C in keyof TransferCommands]: (args: TransferCommands[C]['args']) => Promise<TransferCommands[C]['answer']> }

const exportNameOf = (store: Store, name: string): string => listImports(store).find((one) => one.name === name)?.exportName ?? ''

export const transferTable = (serving: Serving): Table => ({
  diff: ({ from, to, offset, countMax = DIFF_COUNT_MAX }) => {
    const { store } = serving
    return diffPage(store, from === undefined ? null : store.entry(from), store.entry(to), {
      offset,
      countMax: Math.max(1, Math.min(countMax, DIFF_COUNT_MAX)),
    })
  },
  imports: async () => listImports(serving.store),
  importBegin: async ({ compression, secret, ...target }) => {
    serving.assertUnused(exportNameOf(serving.store, target.name), 'import into')
    serving.assertUnused(target.name, 'import into')
    return beginStream(serving.store, target, optionsOf({ compression, secret }))
  },
  importMark: async ({ name, positionBytes }) => {
    await markStream(serving.store, name, positionBytes)
    return null
  },
  importFinish: async (target) => {
    // Whoever wrote it has closed its connection, which may still be on its way.
    await serving.left(exportNameOf(serving.store, target.name))
    await finishStream(serving.store, target, () => serving.assertUnused(target.name, 'import into'))
    return null
  },
  importAbort: async ({ name }) => {
    serving.assertUnused(exportNameOf(serving.store, name), 'give up')
    await abortStream(serving.store, name)
    return null
  },
  imageBegin: async ({ name, sizeBytes, ...form }) => ({
    exportName: await beginImage(serving.store, name, sizeBytes, optionsOf(form)),
  }),
  imageFinish: async ({ exportName }) => {
    await serving.left(exportName)
    return { name: await finishImage(serving.store, exportName) }
  },
  exportBegin: async ({ name }) => ({ exportName: await beginExport(serving.store, name) }),
  takeAway: async ({ exportName }) => {
    await takeAway(serving.store, exportName)
    return null
  },
})

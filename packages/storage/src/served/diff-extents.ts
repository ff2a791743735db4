import type { DiffExtent, DiffPage } from '../store/diff.ts'
import type { CommandCaller } from '../volume-commands.ts'

/** All extents of a diff, page by page, neighbours of one kind joined. `from` null: over nothing. `offset`: where to begin, in bytes. */
export async function* diffExtents(
  call: CommandCaller,
  from: string | null,
  to: string,
  offset = 0,
): AsyncGenerator<DiffExtent, void, void> {
  let held: { -readonly [K in keyof DiffExtent]: DiffExtent[K] } | null = null
  for (let at: number | null = offset; at !== null;) {
    const page: DiffPage = await call('diff', { ...(from === null ? {} : { from }), to, offset: at })
    for (const extent of page.extents) {
      if (held !== null && held.kind === extent.kind && held.offset + held.lengthBytes === extent.offset)
        held.lengthBytes += extent.lengthBytes
      else {
        if (held !== null) yield held
        held = { offset: extent.offset, lengthBytes: extent.lengthBytes, kind: extent.kind }
      }
    }
    at = page.next
  }
  if (held !== null) yield held
}

/** `snapshot diff`: what differs between two points. */
import { bytes, formatBytes } from '@typevisor/base'
import { diffExtents, type DiffExtent } from '@typevisor/storage'
import { renderTable } from '../table.ts'
import type { VolumeVerb } from './volume-verb.ts'

const ROW_COUNT_MAX = 1000

export const DIFF_VERBS: Readonly<Record<string, VolumeVerb>> = {
  diff: {
    usage: 'typevisor snapshot diff FROM TO --dir DIR    (snapshots or volumes)',
    words: [2, 2],
    async run(call, [from = '', to = ''], _flags, terminal, json) {
      let changedBytes = 0
      const rows: DiffExtent[] = []
      let count = 0
      for await (const extent of diffExtents(call, from, to)) {
        changedBytes += extent.lengthBytes
        count += 1
        // There may be more of them than fit in memory.
        if (json) terminal.out(`${count === 1 ? '{"items":[' : ','}${JSON.stringify(extent)}`)
        else if (rows.length < ROW_COUNT_MAX) rows.push(extent)
      }
      if (json) {
        terminal.out(`${count === 0 ? '{"items":[' : ''}],"changedBytes":${changedBytes}}`)
        return
      }
      if (rows.length > 0)
        terminal.out(
          renderTable(
            rows,
            [
              { title: 'OFFSET', value: ({ offset }) => String(offset), right: true },
              { title: 'BYTES', value: ({ lengthBytes }) => String(lengthBytes), right: true },
              { title: 'NOW', value: ({ kind }) => kind },
            ],
            terminal.width,
          ),
        )
      if (count > rows.length) terminal.say(`the first ${rows.length} of ${count} extents; --json shows all`)
      terminal.say(`${formatBytes(bytes(changedBytes))} differ`)
    },
  },
}

import { Fault } from '@typevisor/base'

/** What a field is: a whole number of so many bits, or so many raw bytes. */
export type FieldKind = 'u8' | 'u16' | 'u32' | 'i32' | 'u64' | number
export type Field = readonly [name: string, kind: FieldKind, doc?: string]

type ValueOf<K> = K extends 'u64' ? bigint : K extends number ? Uint8Array : number
/** The record of a layout: `u64` as bigint, raw bytes as Uint8Array, the rest as number. */
export type Decoded<F extends readonly Field[]> = { -readonly [E in F[number] as E[0]]: ValueOf<E[1]> }

export interface Layout<F extends readonly Field[]> {
  readonly fields: F
  readonly littleEndian: boolean
  readonly sizeBytes: number
  /** Offset of each field from the record's first byte. */
  readonly at: { readonly [E in F[number] as E[0]]: number }
  /** @throws Fault `invalid` when fewer bytes than `sizeBytes` are there. Raw bytes are a view, not a copy. */
  decode(source: Uint8Array, from?: number): Decoded<F>
  /** Into `target` at `from`, or into new bytes. Numbers are cut to their width. */
  encode(record: Decoded<F>, target?: Uint8Array, from?: number): Uint8Array
}

const WIDTH = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8 } as const
const widthOf = (kind: FieldKind): number => (typeof kind === 'number' ? kind : WIDTH[kind])

/** Big-endian unless told otherwise, as network formats are. */
export function layout<const F extends readonly Field[]>(fields: F, options: { littleEndian?: boolean } = {}): Layout<F> {
  const littleEndian = options.littleEndian ?? false
  const at: Record<string, number> = {}
  let sizeBytes = 0
  for (const [name, kind] of fields) {
    at[name] = sizeBytes
    sizeBytes += widthOf(kind)
  }
  const viewOf = (bytes: Uint8Array, from: number): DataView => {
    if (bytes.length - from < sizeBytes)
      throw new Fault(
        'invalid',
        `record of ${fields.map(([name]) => name).join(', ')}: got ${bytes.length - from} bytes, want ${sizeBytes}`,
      )
    return new DataView(bytes.buffer, bytes.byteOffset + from, sizeBytes)
  }
  return {
    fields,
    littleEndian,
    sizeBytes,
    at: at as Layout<F>['at'],
    decode(source, from = 0) {
      const view = viewOf(source, from)
      const record: Record<string, number | bigint | Uint8Array> = {}
      let offset = 0
      for (const [name, kind] of fields) {
        record[name] =
          typeof kind === 'number' ? source.subarray(from + offset, from + offset + kind) : read(view, offset, kind, littleEndian)
        offset += widthOf(kind)
      }
      return record as Decoded<F>
    },
    encode(record, target = new Uint8Array(sizeBytes), from = 0) {
      const view = viewOf(target, from)
      let offset = 0
      for (const [name, kind] of fields) {
        const value = (record as Record<string, number | bigint | Uint8Array>)[name]
        if (typeof kind === 'number') putBytes(target, from + offset, kind, value as Uint8Array)
        else write(view, offset, kind, value as number | bigint, littleEndian)
        offset += widthOf(kind)
      }
      return target
    },
  }
}

/** Shorter values end in zeros. */
function putBytes(target: Uint8Array, from: number, width: number, value: Uint8Array): void {
  if (value.length > width) throw new Fault('invalid', `bytes of a record: got ${value.length}, want at most ${width}`)
  target.set(value, from)
  target.fill(0, from + value.length, from + width)
}

function read(view: DataView, offset: number, kind: keyof typeof WIDTH, little: boolean): number | bigint {
  switch (kind) {
    case 'u8':
      return view.getUint8(offset)
    case 'u16':
      return view.getUint16(offset, little)
    case 'u32':
      return view.getUint32(offset, little)
    case 'i32':
      return view.getInt32(offset, little)
    case 'u64':
      return view.getBigUint64(offset, little)
  }
}

function write(view: DataView, offset: number, kind: keyof typeof WIDTH, value: number | bigint, little: boolean): void {
  switch (kind) {
    case 'u8':
      return view.setUint8(offset, Number(value))
    case 'u16':
      return view.setUint16(offset, Number(value), little)
    case 'u32':
      return view.setUint32(offset, Number(value), little)
    case 'i32':
      return view.setInt32(offset, Number(value), little)
    case 'u64':
      return view.setBigUint64(offset, BigInt(value), little)
  }
}

/** A layout as a table in Markdown, for the format's documentation. */
export function layoutTable(of: Layout<readonly Field[]>): string {
  const rows = of.fields.map(([name, kind, doc]) => {
    const at = (of.at as Record<string, number>)[name]
    return `| ${at} | ${widthOf(kind)} | \`${name}\` | ${typeof kind === 'number' ? 'bytes' : kind} | ${doc ?? ''} |`
  })
  return ['| offset | bytes | field | type | |', '| ---: | ---: | --- | --- | --- |', ...rows].join('\n')
}

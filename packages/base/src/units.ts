import type { Brand } from './brand.ts'
import { Fault } from './fault.ts'

/** A whole, non-negative number of bytes, at most 2^53 - 1. */
export type Bytes = Brand<number, 'Bytes'>
/** Milliseconds since the Unix epoch (whole). */
export type EpochMillis = Brand<number, 'EpochMillis'>
/** A duration in milliseconds. */
export type Millis = Brand<number, 'Millis'>

export const KIB = 1024
export const MIB = 1024 * 1024
export const GIB = 1024 * 1024 * 1024
export const TIB = 1024 * 1024 * 1024 * 1024

/** @throws Fault `invalid` when `count` is not a whole number in [0, 2^53). */
export function bytes(count: number): Bytes {
  if (!Number.isSafeInteger(count) || count < 0) {
    throw new Fault('invalid', `size: got ${count}, want a whole number of bytes from 0`)
  }
  return count as Bytes
}
export const mib = (count: number): Bytes => bytes(count * MIB)
export const gib = (count: number): Bytes => bytes(count * GIB)
export const millis = (count: number): Millis => count as Millis
export const seconds = (count: number): Millis => (count * 1000) as Millis
export const epochMillis = (count: number): EpochMillis => count as EpochMillis

const SUFFIX: Record<string, number> = { '': 1, b: 1, k: KIB, kib: KIB, m: MIB, mib: MIB, g: GIB, gib: GIB, t: TIB, tib: TIB }

/**
 * Reads a size as people write it: `512M`, `1.5GiB`, `4096`. Suffixes are powers of 1024, case does not matter.
 * @throws Fault `invalid` for anything else.
 */
export function parseBytes(text: string): Bytes {
  const match = /^(\d{1,16}(?:\.\d{1,6})?)\s*([a-z]{0,3})$/i.exec(text.trim())
  const factor = match ? SUFFIX[(match[2] ?? '').toLowerCase()] : undefined
  if (!match || factor === undefined) {
    throw new Fault('invalid', `size: got ${JSON.stringify(text)}, want a number with K, M, G or T behind it, such as 512M`)
  }
  return bytes(Math.round(Number(match[1]) * factor))
}

/** `1.5 GiB`; exact numbers keep no decimals. */
export function formatBytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let value = count
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[unit]}`
}

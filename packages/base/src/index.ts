/**
 * What every package may use: units, faults, and the ports through which the core meets the world.
 *
 * The core decides, the edge acts: nothing here (or in any core package) imports `node:*`, reads a clock or draws a random number.
 * Expected failures are `Fault`s from one closed table (`fault.ts`); bugs are `assert`.
 */
export { withDeadline, type Deadline } from './abort.ts'
export { assert, AssertionFault, unreachable } from './assert.ts'
export type { BlockDevice, Extent, ImmediateBlockDevice, WriteOptions, ZeroOptions } from './block-device.ts'
export type { Brand } from './brand.ts'
export { Channel } from './channel.ts'
export {
  Fault,
  FAULTS,
  faultFromJson,
  fieldFault,
  retryable,
  toFault,
  type FaultCode,
  type FaultDetail,
  type FaultJson,
  type FaultOptions,
} from './fault.ts'
export { joinBytes } from './join-bytes.ts'
export type { Json } from './json.ts'
export type { AppendFile, Clock, Disk, IdSource, Log, LogFields, Rng } from './ports.ts'
export {
  bytes,
  epochMillis,
  formatBytes,
  gib,
  GIB,
  KIB,
  mib,
  MIB,
  millis,
  parseBytes,
  seconds,
  TIB,
  type Bytes,
  type EpochMillis,
  type Millis,
} from './units.ts'

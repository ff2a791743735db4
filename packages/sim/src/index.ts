/**
 * A world for tests that one seed decides: time that stands still until everybody waits, random numbers, ids, a log in memory, and a
 * disk that loses in a crash what was not synced.
 *
 *   seed --> seededRng --> simDisk, faults, schedules of the test          virtualClock <-- sleeps of the code under test
 *
 * Invariants: the same seed gives the same run, as long as the code under test meets the world through ports only. A crashed disk
 * answers nobody any more. Synced bytes and finished replaces are never lost.
 *
 * What it is not: a model of performance, or of the Byzantine (a simulated disk forgets, it does not lie about what it synced).
 *
 * `testing.ts` has the conformance suite of the `Disk` port; it runs on this disk and on the real one.
 *
 * References: FoundationDB, "A Distributed Unbundled Transactional Key Value Store" (SIGMOD 2021), section 4; TigerBeetle's VOPR.
 */
export { virtualClock, type VirtualClock } from './clock.ts'
export { simDisk, type SimDisk, type SimDiskOperation, type SimDiskOptions } from './disk.ts'
export { sequentialIds } from './ids.ts'
export { memoryLog, type LogLevel, type LogLine, type MemoryLog } from './log.ts'
export { seededRng, type SeededRng } from './rng.ts'

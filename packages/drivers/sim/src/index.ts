/**
 * Domains in memory: the first driver of the `DomainDriver` port, for tests of everything above and for trying the platform with a
 * thousand domains on a laptop.
 *
 *   SimDriver (closed, opened again) --> SimHypervisor (outlives it) --> SimGuest
 *
 * Time is the clock that is given (virtual in tests); delays are drawn from a seeded Rng; `faults` throws what is to be injected.
 * It keeps to the port's contract as the conformance suite states it; it does not emulate a processor.
 */
export { simConformanceWorld } from './conformance-world.ts'
export { createSimDriver, type SimDriverOptions, type SimFaults } from './driver.ts'
export { SimHypervisor, type SimGuest } from './hypervisor.ts'
export { streamPair } from './stream-pair.ts'

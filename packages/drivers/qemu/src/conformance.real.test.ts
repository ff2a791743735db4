/** The port's promises on a real QEMU with a real Linux: the platform's own starter image, kept under `.cache` of the clone. */
import { domainDriverConformance } from '@typevisor/toolstack/testing'
import { qemuConformanceWorld } from './node-conformance-world.ts'
import { microImage, silentLog, testClock, testHost, testIds } from './testing.ts'

domainDriverConformance('qemu', async () =>
  qemuConformanceWorld({ image: await microImage(), host: testHost(), clock: testClock, ids: testIds, log: silentLog }),
)

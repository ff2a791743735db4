import { seededRng, virtualClock } from '@typevisor/sim'
import { domainDriverConformance } from '@typevisor/toolstack/testing'
import { simConformanceWorld } from './conformance-world.ts'

domainDriverConformance('sim', async () => {
  const clock = virtualClock()
  return simConformanceWorld(clock, seededRng(1), (ms) => clock.advance(ms))
})

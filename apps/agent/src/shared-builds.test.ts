import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { Fault } from '@typevisor/base'
import { memoryImageStore } from '@typevisor/image/testing'
import type { ImageName } from '@typevisor/model'
import { SharedBuilds } from './shared-builds.ts'

const MICRO = 'micro' as ImageName
const none = () => {}
const isAborted = (error: unknown) => error instanceof Fault && error.code === 'aborted'

/** Builds that end when the test says so, or when they are aborted. */
function slowStore() {
  const built = memoryImageStore()
  const begun: { finish: () => void; signal: AbortSignal }[] = []
  const builds = new SharedBuilds({
    async build(name, { signal, progress } = {}) {
      assert.ok(signal)
      const finished = Promise.withResolvers<void>()
      signal.addEventListener('abort', () => finished.reject(signal.reason), { once: true })
      begun.push({ finish: finished.resolve, signal })
      progress?.(0.5, 'half')
      await finished.promise
      return built.build(name, { signal, ...(progress ? { progress } : {}) })
    },
  })
  return { builds, begun }
}

test('one who withdraws from a shared build leaves it to the others', async () => {
  const { builds, begun } = slowStore()
  const first = new AbortController()
  const told: number[] = []
  const leaving = builds.build(MICRO, { signal: first.signal, progress: none })
  const staying = builds.build(MICRO, { signal: undefined, progress: (fraction) => told.push(fraction) })
  await turn()
  first.abort(new Fault('aborted', 'withdrew'))
  await assert.rejects(leaving, isAborted)
  assert.equal(begun[0]?.signal.aborted, false)
  begun[0]?.finish()
  assert.equal((await staying).name, MICRO)
  assert.equal(told.at(-1), 1)
  assert.equal(begun.length, 1)
})

test('when all have withdrawn the build ends, and who comes then begins another after it', async () => {
  const { builds, begun } = slowStore()
  const callers = [new AbortController(), new AbortController()]
  const leaving = callers.map(({ signal }) => builds.build(MICRO, { signal, progress: none }))
  await turn()
  for (const caller of callers) caller.abort(new Fault('aborted', 'withdrew'))
  for (const one of leaving) await assert.rejects(one, isAborted)
  assert.equal(begun[0]?.signal.aborted, true)
  const later = builds.build(MICRO, { signal: undefined, progress: none })
  await turn()
  assert.equal(begun.length, 2)
  begun[1]?.finish()
  assert.equal((await later).name, MICRO)
})

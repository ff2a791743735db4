import assert from 'node:assert/strict'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { assertCounts, bench, consoleText, last, pidOf, running, type, until, watch } from './testing.ts'

test('a domain is created paused, runs, pauses, goes on and is destroyed with nothing left', async (t) => {
  const { driver, domain: make, folder } = await bench(t)
  const domain = await make()
  const start = performance.now()
  await driver.create(domain)
  t.diagnostic(`create: ${(performance.now() - start).toFixed(0)} ms`)
  assert.deepEqual(await driver.state(domain.id), { kind: 'paused', cause: 'requested' })
  await driver.unpause(domain.id)
  await consoleText(driver, domain, (text) => text.includes('00000002\n'))
  await driver.pause(domain.id)
  assert.deepEqual(await driver.state(domain.id), { kind: 'paused', cause: 'requested' })
  await driver.unpause(domain.id)
  assert.deepEqual(await driver.state(domain.id), { kind: 'running' })
  await driver.destroy(domain.id)
  assert.equal((await driver.state(domain.id)).kind, 'gone')
  assert.deepEqual(await readdir(join(folder, 'run')), [])
})

test('a create asked twice keeps the domain that is there', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const pid = await pidOf(b, domain)
  await b.driver.create(domain)
  assert.equal(await pidOf(b, domain), pid)
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'running' })
})

test('a guest that powers itself off is kept, with the guest as the cause', async (t) => {
  const b = await bench(t)
  const events = watch(b.driver)
  const domain = await running(b)
  await type(b.driver, domain, 'q')
  await until(() => last(events).includes('powered-off'), 'powered off')
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'powered-off', cause: 'guest' })
  await b.driver.close()
  const after = b.open()
  assert.deepEqual((await after.adopt([domain])).get(domain.id), { kind: 'powered-off', cause: 'guest' }, 'the cause outlives the caller')
})

test('a guest asked to power off does so, as requested', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  await b.driver.requestShutdown(domain.id)
  await until(async () => (await b.driver.state(domain.id)).kind === 'powered-off', 'powered off')
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'powered-off', cause: 'requested' })
  await assert.rejects(b.driver.unpause(domain.id), { code: 'conflict' })
})

test('a guest that panics is crashed and kept; a reset brings it back to its start, paused', async (t) => {
  const b = await bench(t)
  const events = watch(b.driver)
  const domain = await running(b)
  await type(b.driver, domain, 'x')
  await until(() => last(events).includes('guest-panic'), 'crashed')
  const state = await b.driver.state(domain.id)
  assert.equal(state.kind, 'crashed')
  await b.driver.reset(domain.id)
  await until(async () => (await b.driver.state(domain.id)).kind === 'paused', 'paused after the reset')
  await b.driver.unpause(domain.id)
  await consoleText(b.driver, domain, (text) => text.split('boot\n').length === 3)
})

test('a reset is told and changes no state, whoever asked for it', async (t) => {
  const b = await bench(t)
  const events = watch(b.driver)
  const domain = await running(b)
  await type(b.driver, domain, 'r')
  await until(() => events.some((event) => event.kind === 'reset'), 'reset by the guest')
  await b.driver.reset(domain.id)
  await until(() => events.filter((event) => event.kind === 'reset').length >= 2, 'reset by the host')
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'running' })
})

test('QEMU killed while watched is gone as a failed process', async (t) => {
  const b = await bench(t)
  const events = watch(b.driver)
  const domain = await running(b)
  process.kill(await pidOf(b, domain), 'SIGKILL')
  await until(() => last(events).includes('gone'), 'gone')
  const state = await b.driver.state(domain.id)
  assert.equal(state.kind === 'gone' && state.cause, 'process-failed')
  await b.driver.create(domain)
  assert.equal((await b.driver.state(domain.id)).kind, 'paused', 'it can be made again')
})

test('QEMU killed while nobody watched is gone for an unknown cause', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const pid = await pidOf(b, domain)
  await b.driver.close()
  process.kill(pid, 'SIGKILL')
  await sleep(100)
  const after = b.open()
  assert.deepEqual((await after.adopt([domain])).get(domain.id), { kind: 'gone', cause: 'unknown', detail: null })
})

test('a save ends the domain and a restore goes on with its memory, paused first', async (t) => {
  const b = await bench(t)
  const domain = await running(b, { memoryMib: 256 })
  const path = join(b.folder, 'guest.save')
  const start = performance.now()
  const { sizeBytes } = await b.driver.save(domain.id, path)
  t.diagnostic(`save of 256 MiB (mostly empty): ${(performance.now() - start).toFixed(0)} ms, ${sizeBytes} bytes`)
  assert.equal((await stat(path)).size, sizeBytes)
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'gone', cause: 'requested', detail: null })
  assert.deepEqual(await b.driver.save(domain.id, path), { sizeBytes }, 'asked again it answers the same')
  const before = await consoleText(b.driver, domain, () => true)
  const startRestore = performance.now()
  await b.driver.restore(domain, path)
  t.diagnostic(`restore: ${(performance.now() - startRestore).toFixed(0)} ms`)
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'paused', cause: 'requested' })
  await b.driver.unpause(domain.id)
  const text = await consoleText(b.driver, domain, (now) => now.length > before.length + 40)
  assert.equal(text.split('boot\n').length, 2, 'it did not boot again')
  assertCounts(text)
})


/** What is left when the process that holds the driver is killed, at any moment. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { access, mkdir, open, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Fault, millis } from '@typevisor/base'
import type { DriverDomain } from '@typevisor/toolstack'
import { assertCounts, bench, consoleText, pidOf, running, testHost, type, until, watch, type Bench } from './testing.ts'

const HERE = dirname(fileURLToPath(import.meta.url))

/** A process that does `body` with `driver` and `domain`, says "ready" where the body calls `ready()`, and then lives on. */
async function holder(
  t: TestContext,
  b: Bench,
  domain: DriverDomain,
  body: string,
): Promise<ChildProcess & { ready: Promise<void> }> {
  const code = `
    import { createQemuDriver } from '${HERE}/index.ts'
    import { silentLog, testClock, testHost, testIds } from '${HERE}/testing.ts'
    const { folder, domain } = JSON.parse(process.argv[1])
    const driver = createQemuDriver({ dataDir: folder + '/data', runDir: folder + '/run', host: testHost(), clock: testClock, ids: testIds, log: silentLog, accelerator: 'tcg' })
    const ready = () => console.log('ready')
    setInterval(() => {}, 1000)
    ${body}`
  const argv = ['--input-type=module-typescript', '--eval', code, JSON.stringify({ folder: b.folder, domain })]
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.after(() => void child.kill('SIGKILL'))
  const ready = new Promise<void>((resolve) => child.stdout.once('data', () => resolve()))
  return Object.assign(child, { ready })
}

async function kill(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL')
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  )

const processCount = async (b: Bench, domain: DriverDomain): Promise<number> =>
  (await testHost().processes.findByArguments(['-pidfile', join(b.folder, 'run', domain.id, 'qemu.pid')])).length

test('a guest that talks without a pause loses no byte while its keepers are killed one after the other', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const pid = await pidOf(b, domain)
  await type(b.driver, domain, 'f')
  await b.driver.close()
  for (let round = 0; round < 3; round += 1) {
    const body = `await driver.adopt([domain]); const c = await driver.openConsole(domain.id); ready(); for await (const chunk of c.readable);`
    const keeper = await holder(t, b, domain, body)
    await keeper.ready
    await sleep(200 + round * 130)
    await kill(keeper)
    await sleep(50)
  }
  const after = b.open()
  assert.deepEqual((await after.adopt([domain])).get(domain.id), { kind: 'running' })
  assert.equal(await pidOf(b, domain), pid)
  const text = await consoleText(after, domain, (now) => now.length > 10_000)
  assertCounts(text)
  t.diagnostic(`${text.length} bytes of console over three kills`)
})

test('a caller killed while it makes a domain leaves it whole or not at all, and never two', async (t) => {
  const b = await bench(t)
  const counts = { gone: 0, paused: 0 }
  for (let round = 0; round < 12; round += 1) {
    const domain = await b.domain()
    const keeper = await holder(t, b, domain, `ready(); await driver.create(domain)`)
    await keeper.ready
    await sleep(round * 15)
    await kill(keeper)
    const after = b.open()
    const state = (await after.adopt([domain])).get(domain.id)
    assert.ok(state && (state.kind === 'gone' || state.kind === 'paused'), JSON.stringify(state))
    counts[state.kind] += 1
    assert.equal(await processCount(b, domain), state.kind === 'gone' ? 0 : 1)
    await after.create(domain)
    await after.unpause(domain.id)
    assert.equal(await processCount(b, domain), 1)
    await after.destroy(domain.id)
    assert.equal(await processCount(b, domain), 0)
    await after.close()
  }
  t.diagnostic(`found gone ${counts.gone} times, whole ${counts.paused} times`)
})

test('a child that had not become QEMU yet when its caller was killed is ended before another is started; who only reads its words is not', async (t) => {
  const b = await bench(t)
  const domain = await b.domain()
  const run = join(b.folder, 'run', domain.id)
  await mkdir(run, { recursive: true })
  // As `launch` leaves it between its record and the process: the child has its standard error, and the arguments of who started it.
  const { id, name, hardware } = domain
  const record = { version: 1, id, name, hardware, memoryBytes: 1, vcpuCount: 1, phase: { kind: 'starting' }, process: null }
  await writeFile(join(run, 'domain.json'), JSON.stringify({ ...record, state: { kind: 'paused', cause: 'requested' } }))
  const words = await open(join(run, 'stderr.log'), 'a')
  const child = spawn('sleep', ['1000'], { stdio: ['ignore', 'ignore', words.fd] })
  const reader = spawn('tail', ['-f', join(run, 'stderr.log')], { stdio: 'ignore' })
  t.after(() => [child, reader].map((each) => each.kill('SIGKILL')))
  await words.close()
  assert.equal((await b.driver.adopt([domain])).get(domain.id)?.kind, 'gone')
  await until(() => child.signalCode === 'SIGKILL', 'the child is ended')
  await b.driver.create(domain)
  assert.equal(await processCount(b, domain), 1)
  assert.deepEqual([reader.exitCode, reader.signalCode], [null, null])
})

test('a caller killed while it saves leaves the guest going on or the whole file, never both', async (t) => {
  const b = await bench(t)
  const counts = { running: 0, saved: 0 }
  let domain = await running(b, { memoryMib: 512 })
  const path = join(b.folder, 'guest.save')
  await b.driver.close()
  for (let round = 0; round < 12; round += 1) {
    const keeper = await holder(
      t,
      b,
      domain,
      `await driver.adopt([domain]); ready(); await driver.save(domain.id, ${JSON.stringify(path)})`,
    )
    await keeper.ready
    await sleep(round * 6)
    await kill(keeper)
    const after = b.open()
    const state = (await after.adopt([domain])).get(domain.id)
    if (state?.kind === 'running') {
      counts.running += 1
      assert.equal(await exists(path), false, 'no file beside a guest that goes on')
    } else {
      counts.saved += 1
      assert.deepEqual(state, { kind: 'gone', cause: 'requested', detail: null })
      await after.restore(domain, path)
      await after.unpause(domain.id)
    }
    assert.equal(await exists(`${path}.partial`), false)
    const { endOffset } = await after.readConsole(domain.id, 0, 1 << 24)
    assertCounts(await consoleText(after, domain, (now) => now.length > endOffset + 20))
    await after.close()
  }
  t.diagnostic(`the guest went on ${counts.running} times, was saved ${counts.saved} times`)
})

test('a monitor that hangs is a timeout that names the command; the others answer, and it is told once it answers again', async (t) => {
  const b = await bench(t, { limits: { monitor: millis(400) } })
  const [hung, well] = [await running(b), await running(b)]
  const pid = await pidOf(b, hung)
  process.kill(pid, 'SIGSTOP')
  t.after(() => {
    try {
      process.kill(pid, 'SIGCONT')
    } catch {
      // It is gone.
    }
  })
  await assert.rejects(b.driver.state(hung.id), { code: 'timeout', message: /QMP query-status/ })
  await assert.rejects(b.driver.pause(hung.id), { code: 'timeout', message: /QMP/ })
  assert.deepEqual(await b.driver.state(well.id), { kind: 'running' })
  await b.driver.close()
  const after = b.open()
  const events = watch(after)
  const states = await after.adopt([hung, well])
  assert.deepEqual(states.get(well.id), { kind: 'running' })
  assert.equal(states.has(hung.id), false, 'neither gone nor known')
  process.kill(pid, 'SIGCONT')
  await until(() => events.some((event) => event.domain === hung.id && event.state.kind === 'running'), 'told that it runs')
})

test('a hung QEMU can be destroyed', async (t) => {
  const b = await bench(t, { limits: { monitor: millis(400) } })
  const domain = await running(b)
  process.kill(await pidOf(b, domain), 'SIGSTOP')
  await b.driver.destroy(domain.id)
  assert.equal(await processCount(b, domain), 0)
  assert.equal((await b.driver.state(domain.id)).kind, 'gone')
})

test('a save during which QEMU hangs is neither file nor loss: it is taken back when QEMU answers', async (t) => {
  const b = await bench(t, { limits: { monitor: millis(300), transfer: millis(500) } })
  const domain = await running(b, { memoryMib: 512 })
  const pid = await pidOf(b, domain)
  const path = join(b.folder, 'guest.save')
  const save = b.driver.save(domain.id, path)
  const outcome = save.then(
    () => 'saved',
    (error: unknown) => (error instanceof Fault ? error.code : String(error)),
  )
  await until(() => exists(`${path}.partial`), 'the save has begun')
  process.kill(pid, 'SIGSTOP')
  const code = await outcome
  assert.ok(['unavailable', 'timeout', 'saved'].includes(code), code)
  process.kill(pid, 'SIGCONT')
  if (code === 'saved') return t.diagnostic('it was quicker')
  await until(async () => (await b.driver.state(domain.id).catch(() => null))?.kind === 'running', 'it goes on')
  assert.deepEqual([await exists(path), await exists(`${path}.partial`)], [false, false])
})

const UNREADABLE: readonly (readonly [string, (text: string) => string | null])[] = [
  ['garbage', () => '\u0000\u0001{"version":1,'],
  ['of a newer version', (text) => JSON.stringify({ ...(JSON.parse(text) as object), version: 2, phase: { kind: 'moving' } })],
  ['empty', () => ''],
  ['not there', () => null],
]
for (const [what, change] of UNREADABLE) {
  test(`a guest whose record is ${what} goes on, and can be paused, saved, restored and destroyed`, async (t) => {
    const b = await bench(t)
    const domain = await running(b)
    const pid = await pidOf(b, domain)
    await b.driver.close()
    const path = join(b.folder, 'run', domain.id, 'domain.json')
    const changed = change(await readFile(path, 'utf8'))
    if (changed === null) await rm(path)
    else await writeFile(path, changed)

    const after = b.open()
    await assert.rejects(after.pause(domain.id), { code: 'unavailable', message: new RegExp(`process ${pid} is there`) })
    assert.deepEqual((await after.adopt([domain])).get(domain.id), { kind: 'running' })
    assert.equal(await pidOf(b, domain), pid)
    assert.equal(await processCount(b, domain), 1)
    if (changed !== null) assert.equal(await readFile(`${path}.unreadable`, 'utf8'), changed, 'kept, not written over')
    await after.pause(domain.id)
    await after.unpause(domain.id)
    const { endOffset } = await after.readConsole(domain.id, 0, 1 << 24)
    // It counts in memory, from its only boot on.
    assertCounts(await consoleText(after, domain, (text) => text.length > endOffset + 20))
    const save = join(b.folder, 'guest.save')
    await after.save(domain.id, save)
    await after.restore(domain, save)
    await after.unpause(domain.id)
    await after.close()
    const last = b.open()
    assert.deepEqual(await last.state(domain.id), { kind: 'running' }, 'the record made anew is a good one')
    await last.destroy(domain.id)
    assert.equal(await processCount(b, domain), 0)
  })
}

test('a guest that neither its record nor its monitor tells of is left alone, and told of once it answers', async (t) => {
  const b = await bench(t, { limits: { monitor: millis(300) } })
  const domain = await running(b)
  const pid = await pidOf(b, domain)
  await b.driver.close()
  await writeFile(join(b.folder, 'run', domain.id, 'domain.json'), 'torn')
  process.kill(pid, 'SIGSTOP')
  const after = b.open()
  const events = watch(after)
  assert.equal((await after.adopt([domain])).has(domain.id), false, 'neither gone nor known')
  await assert.rejects(after.state(domain.id), { code: 'unavailable', message: /its monitor does not answer/ })
  await assert.rejects(after.create(domain), { code: 'unavailable' })
  assert.equal(await processCount(b, domain), 1)
  process.kill(pid, 'SIGCONT')
  await until(() => events.some((event) => event.domain === domain.id && event.state.kind === 'running'), 'told that it runs')
  assert.equal(await pidOf(b, domain), pid)
})

test('a QEMU without a readable record that never ran is swept, and one that has ended is gone with its last words', async (t) => {
  const b = await bench(t)
  const [fresh, dead] = [await b.domain(), await running(b)]
  await b.driver.create(fresh)
  const pid = await pidOf(b, dead)
  await b.driver.close()
  process.kill(pid, 'SIGKILL')
  for (const { id } of [fresh, dead]) await writeFile(join(b.folder, 'run', id, 'domain.json'), 'torn')
  await writeFile(join(b.folder, 'run', dead.id, 'stderr.log'), 'qemu: no more\n')
  await until(async () => (await processCount(b, dead)) === 0, 'it has ended')
  const after = b.open()
  const states = await after.adopt([fresh, dead])
  assert.deepEqual(states.get(fresh.id), { kind: 'gone', cause: 'unknown', detail: null })
  assert.deepEqual(states.get(dead.id), { kind: 'gone', cause: 'unknown', detail: 'qemu: no more' })
  assert.equal(await processCount(b, fresh), 0)
  for (const domain of [fresh, dead]) {
    await after.create(domain)
    assert.equal((await after.state(domain.id)).kind, 'paused')
  }
})

test('an end that was asked for and did not come is taken back: QEMU dying later is told as a failure', async (t) => {
  const real = testHost()
  let isDeaf = true
  const host = {
    ...real,
    processes: {
      ...real.processes,
      // As for a process that waits for a device.
      signal: async (...call: Parameters<typeof real.processes.signal>) => {
        if (isDeaf) throw new Fault('unavailable', 'end process: it is still there')
        return await real.processes.signal(...call)
      },
    },
  }
  const b = await bench(t, { host, limits: { monitor: millis(300) } })
  t.after(() => (isDeaf = false))
  const domain = await running(b)
  const events = watch(b.driver)
  const pid = await pidOf(b, domain)
  process.kill(pid, 'SIGSTOP')
  await assert.rejects(b.driver.destroy(domain.id), { code: 'unavailable' })
  isDeaf = false
  process.kill(pid, 'SIGKILL')
  await until(() => events.at(-1)?.state.kind === 'gone', 'told that it is gone')
  const told = events.at(-1)?.state
  assert.equal(told?.kind === 'gone' && told.cause, 'process-failed')
})

import assert from 'node:assert/strict'
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, millis } from '@typevisor/base'
import type { DriverDomain } from '@typevisor/toolstack'
import { assertCounts, bench, consoleText, last, pidOf, running, testHost, type, until, watch } from './testing.ts'

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
  assert.deepEqual(
    (await after.adopt([domain])).get(domain.id),
    { kind: 'powered-off', cause: 'guest' },
    'the cause outlives the caller',
  )
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

test('a save that is damaged, cut, of another domain or another machine is refused and nothing is left behind', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const path = join(b.folder, 'guest.save')
  await b.driver.save(domain.id, path)
  const good = await readFile(path)
  const refused = async (content: Uint8Array, of: DriverDomain, message: RegExp): Promise<void> => {
    await writeFile(path, content)
    await assert.rejects(b.driver.restore(of, path), { code: 'failed', message })
    assert.equal((await b.driver.state(of.id)).kind, 'gone')
  }
  const flipped = Uint8Array.from(good)
  flipped[good.length >> 1] = (flipped[good.length >> 1] ?? 0) ^ 1
  await refused(flipped, domain, /checksum/)
  await refused(good.subarray(0, -1), domain, /bytes behind the header/)
  await refused(good.subarray(0, 100), domain, /want at least/)
  await refused(new Uint8Array(8192), domain, /magic/)
  const header = Uint8Array.from(good)
  header[100] = (header[100] ?? 0) ^ 1
  await refused(header, domain, /checksum of the header/)
  await refused(good, await b.domain(), /domain/)
  await refused(
    good,
    { ...domain, hardware: { ...domain.hardware, machine: 'pc-q35-7.1' } },
    /machine pc-q35-7.2, want pc-q35-7.1/,
  )
  const devices = domain.hardware.devices.slice(1)
  await refused(good, { ...domain, hardware: { ...domain.hardware, devices } }, /devices/)
  await writeFile(path, good)
  await b.driver.restore(domain, path)
  assert.equal((await b.driver.state(domain.id)).kind, 'paused')
})

test('a save that is aborted leaves the guest going on and no file', async (t) => {
  const b = await bench(t)
  const domain = await running(b, { memoryMib: 96 })
  const path = join(b.folder, 'guest.save')
  let abortedCount = 0
  // At every moment of a save: some catch QEMU between stopping the guest and letting go of its disks.
  for (let round = 0; round < 60; round += 1) {
    const controller = new AbortController()
    setTimeout(() => controller.abort(new Fault('aborted', 'withdrawn')), round % 40)
    const result = await b.driver.save(domain.id, path, { signal: controller.signal }).catch((error: unknown) => error)
    if (!(result instanceof Error)) {
      await b.driver.restore(domain, path)
      await b.driver.unpause(domain.id)
      await rm(path)
      continue
    }
    abortedCount += 1
    assert.ok(result instanceof Fault && result.code === 'aborted', inspect(result))
    assert.deepEqual(await b.driver.state(domain.id), { kind: 'running' })
    assert.deepEqual(
      (await readdir(b.folder)).filter((name) => name.includes('save')),
      [],
    )
  }
  assert.ok(abortedCount > 0)
  const { endOffset } = await b.driver.readConsole(domain.id, 0, 1 << 24)
  assertCounts(await consoleText(b.driver, domain, (text) => text.length > endOffset + 20))
})

test('a paused guest that is saved in vain stays paused', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  await b.driver.pause(domain.id)
  await assert.rejects(b.driver.save(domain.id, join(b.folder, 'no', 'such', 'folder')), {
    code: 'not_found',
    message: /no\/such/,
  })
  assert.deepEqual(await b.driver.state(domain.id), { kind: 'paused', cause: 'requested' })
  await b.driver.unpause(domain.id)
})

test('a create that is aborted leaves nothing behind', async (t) => {
  const b = await bench(t)
  for (let round = 0; round < 6; round += 1) {
    const domain = await b.domain()
    const controller = new AbortController()
    setTimeout(() => controller.abort(new Fault('aborted', 'withdrawn')), round * 20)
    const result = await b.driver.create(domain, { signal: controller.signal }).catch((error: unknown) => error)
    if (result === undefined) await b.driver.destroy(domain.id)
    else assert.ok(result instanceof Fault && result.code === 'aborted', String(result))
    assert.equal((await b.driver.state(domain.id)).kind, 'gone')
    assert.deepEqual(await readdir(join(b.folder, 'run')).catch(() => []), [])
  }
})

test('what keeps a domain from starting is said in words, and nothing is left behind', async (t) => {
  const b = await bench(t)
  const nothingLeft = async (): Promise<void> => assert.deepEqual(await readdir(join(b.folder, 'run')).catch(() => []), [])
  const noDisk = await b.domain({ volumes: { root: { kind: 'file', path: join(b.folder, 'missing.raw'), format: 'raw' } } })
  await assert.rejects(b.driver.create(noDisk), { code: 'failed', message: /missing\.raw/ })
  await nothingLeft()
  const kernelPath = join(b.folder, 'vmlinuz')
  const noKernel = await b.domain({ boot: { kind: 'kernel', kernelPath, initrdPath: null, commandLine: '' } })
  await assert.rejects(b.driver.create(noKernel), { code: 'failed', message: /no file .*vmlinuz/ })
  await nothingLeft()
  await writeFile(kernelPath, 'no kernel')
  await assert.rejects(b.driver.create(noKernel), { code: 'failed', message: /QEMU ended/ })
  await nothingLeft()
  const domain = await b.domain()
  await assert.rejects(b.driver.create({ ...domain, hardware: { ...domain.hardware, machine: 'pc-q35-99.9' } }), {
    code: 'failed',
    message: /QEMU ended at once: .*unsupported machine type/,
  })
  await assert.rejects(b.driver.create({ ...domain, hardware: { ...domain.hardware, cpuModel: 'Skylake-Server-v4' } }), {
    code: 'failed',
    message: /QEMU ended at once: .*TCG doesn't support requested feature/,
  })
  await assert.rejects(b.driver.create({ ...domain, hardware: { ...domain.hardware, cpuModel: 'max,+x' } }), {
    code: 'invalid',
    message: /cpuModel/,
  })
  await nothingLeft()
  const missing = b.open({ qemuBinary: join(b.folder, 'no-qemu') })
  await assert.rejects(missing.create(domain), { message: /no-qemu/ })
  await nothingLeft()
})

test('a QEMU that starts and says nothing is given up, and ended', async (t) => {
  const b = await bench(t)
  const qemuBinary = join(b.folder, 'mute-qemu')
  await writeFile(
    qemuBinary,
    `#!${process.execPath}\nif (process.argv.includes('--version')) console.log('QEMU emulator version 7.2.0')\nelse { console.error('thinking'); setTimeout(() => {}, 60000) }\n`,
    { mode: 0o755 },
  )
  const driver = b.open({ qemuBinary, limits: { start: millis(600) } })
  const domain = await b.domain()
  await assert.rejects(driver.create(domain), { code: 'timeout', message: /QMP greeting.*thinking/s })
  assert.deepEqual(await testHost().processes.findByArguments(['-pidfile', join(b.folder, 'run', domain.id, 'qemu.pid')]), [])
  assert.deepEqual(await readdir(join(b.folder, 'run')), [])
})

test('a second open disk is refused by its lock', async (t) => {
  const b = await bench(t)
  const first = await running(b)
  const path = Object.values(first.volumes)[0]
  assert.ok(path)
  const second = await b.domain({ volumes: { root: path } })
  await assert.rejects(b.driver.create(second), { code: 'failed', message: /lock/ })
})

test('host ports: one that the host chooses is told and kept over restarts, one that is taken is a conflict', async (t) => {
  const b = await bench(t)
  const domain = await b.domain({
    forwards: [
      { protocol: 'tcp', hostPort: 0, guestPort: 22 },
      { protocol: 'tcp', hostPort: 0, guestPort: 80 },
      { protocol: 'udp', hostPort: 0, guestPort: 53 },
    ],
  })
  await b.driver.create(domain)
  const first = [...(await b.driver.forwards(domain.id))].sort((x, y) => x.guestPort - y.guestPort)
  assert.deepEqual(
    first.map(({ protocol, guestPort }) => [protocol, guestPort]),
    [
      ['tcp', 22],
      ['udp', 53],
      ['tcp', 80],
    ],
  )
  assert.ok(first.every(({ hostPort }) => hostPort > 0))
  const taken = await b.domain({ forwards: [{ protocol: 'tcp', hostPort: first[0]?.hostPort ?? 0, guestPort: 22 }] })
  await assert.rejects(b.driver.create(taken), { code: 'conflict', message: new RegExp(`tcp port ${first[0]?.hostPort}`) })
  await b.driver.destroy(domain.id)
  await b.driver.create(domain)
  assert.deepEqual(
    [...(await b.driver.forwards(domain.id))].sort((x, y) => x.guestPort - y.guestPort),
    first,
  )
})

test('two forwards to one guest port each get a port of their own', async (t) => {
  const b = await bench(t)
  const forward = { protocol: 'tcp', hostPort: 0, guestPort: 22 } as const
  const domain = await b.domain({ forwards: [forward, forward] })
  await b.driver.create(domain)
  const ports = (await b.driver.forwards(domain.id)).map(({ hostPort }) => hostPort)
  assert.equal(new Set(ports).size, 2)
  await b.driver.destroy(domain.id)
  await b.driver.create(domain)
  assert.deepEqual(new Set((await b.driver.forwards(domain.id)).map(({ hostPort }) => hostPort)), new Set(ports))
})

test('many consoles see the same, from any offset, and type into one guest', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  await type(b.driver, domain, 'f')
  const read = async (fromOffset: number, size: number): Promise<string> => {
    const stream = await b.driver.openConsole(domain.id, { fromOffset })
    let text = ''
    for await (const chunk of stream.readable) {
      text += new TextDecoder('latin1').decode(chunk)
      if (text.length >= size) break
    }
    stream.close()
    return text.slice(0, size)
  }
  await consoleText(b.driver, domain, (text) => text.length > 20_000)
  const texts = await Promise.all(
    [0, 7, 100, 5000, 20_000].map(async (offset) => ({ offset, text: await read(offset, 150_000) })),
  )
  const whole = new TextDecoder('latin1').decode((await b.driver.readConsole(domain.id, 0, 1 << 24)).content)
  for (const { offset, text } of texts) assert.equal(text, whole.slice(offset, offset + text.length))
})

test('a console ends with its domain, after the last byte', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const stream = await b.driver.openConsole(domain.id, { fromOffset: 0 })
  const reading = (async () => {
    let text = ''
    for await (const chunk of stream.readable) text += new TextDecoder('latin1').decode(chunk)
    return text
  })()
  await sleep(200)
  await b.driver.destroy(domain.id)
  const whole = new TextDecoder('latin1').decode((await b.driver.readConsole(domain.id, 0, 1 << 24)).content)
  assert.equal(await reading, whole)
  await assert.rejects(stream.write(new Uint8Array(1)), { code: 'unavailable' })
})

test('the console log is kept within its bound, and its offsets stay', async (t) => {
  const b = await bench(t, { limits: { consoleKeepBytes: 65536, consoleTrimInterval: millis(100) } })
  const domain = await running(b)
  await type(b.driver, domain, 'f')
  await until(async () => (await b.driver.readConsole(domain.id, 0, 10)).startOffset > 100_000, 'trimmed twice')
  const log = await stat(join(b.folder, 'data', domain.id, 'console.log'))
  assert.ok(log.blocks * 512 < 1024 * 1024, `${log.blocks * 512} bytes on disk of ${log.size}`)
  await b.driver.pause(domain.id)
  await sleep(150)
  const slice = await b.driver.readConsole(domain.id, 0, 1 << 24)
  const text = new TextDecoder('latin1').decode(slice.content)
  const lines = text.split('\n').slice(1, -1)
  const start = Number.parseInt(lines[0] ?? '', 16)
  for (const [at, line] of lines.entries()) assert.equal(line, (start + at).toString(16).padStart(8, '0'))
  const boot = 'boot\n'.length
  assert.equal(slice.startOffset + text.indexOf('\n') + 1, boot + start * 9, 'offsets count from the first byte ever')
  await b.driver.destroy(domain.id)
  await b.driver.create(domain)
  assert.ok((await b.driver.readConsole(domain.id, 0, 10)).startOffset >= slice.startOffset, 'and over restarts')
})

test('statistics count processor time, memory and disk', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const first = await b.driver.statistics(domain.id)
  await type(b.driver, domain, 'fw')
  await consoleText(b.driver, domain, (text) => text.includes('W'))
  const second = await b.driver.statistics(domain.id)
  assert.ok((second.cpuTimeNs ?? 0) > (first.cpuTimeNs ?? 0))
  assert.ok((second.residentBytes ?? 0) > 1024 * 1024)
  assert.equal(second.balloonBytes, 32 * 1024 * 1024)
  assert.ok((second.disks[0]?.readCount ?? 0) > 0)
  assert.equal(second.disks[0]?.writeCount, 1)
  assert.equal(second.disks[0]?.writeBytes, 512)
  assert.deepEqual(second.nics, [{ name: 'nic0', receiveBytes: null, transmitBytes: null }])
})

test('the screen speaks RFB', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const stream = await b.driver.openVnc(domain.id)
  for await (const chunk of stream.readable) {
    assert.equal(new TextDecoder().decode(chunk), 'RFB 003.008\n')
    break
  }
  stream.close()
})

test('a guest without an agent is unavailable to exec, at once', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const start = performance.now()
  await assert.rejects(b.driver.exec(domain.id, { argv: ['true'], timeoutMs: 1000 }), { code: 'unavailable', message: /agent/ })
  await assert.rejects(b.driver.addresses(domain.id), { code: 'unavailable' })
  assert.ok(performance.now() - start < 1000)
})

test('a reader of events that is too slow is told busy, and goes on after adopting again', async (t) => {
  const b = await bench(t, { limits: { eventCountMax: 4 } })
  const domain = await running(b)
  for (let round = 0; round < 3; round += 1) {
    await b.driver.pause(domain.id)
    await b.driver.unpause(domain.id)
  }
  await assert.rejects(
    async () => {
      for await (const event of b.driver.events()) assert.ok(event)
    },
    { code: 'busy' },
  )
  assert.deepEqual((await b.driver.adopt([domain])).get(domain.id), { kind: 'running' })
  const events = watch(b.driver)
  await b.driver.pause(domain.id)
  await until(() => last(events).includes('paused'), 'an event after the overflow')
})

test('destroy does not wait for a save that is under way', async (t) => {
  const b = await bench(t)
  const domain = await running(b, { memoryMib: 512 })
  const path = join(b.folder, 'guest.save')
  const save = b.driver.save(domain.id, path).catch((error: unknown) => error)
  await sleep(15)
  await b.driver.destroy(domain.id)
  await save
  assert.equal((await b.driver.state(domain.id)).kind, 'gone')
})

test('forget drops the console and is refused while the domain is there', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  await assert.rejects(b.driver.forget(domain.id), { code: 'conflict' })
  await b.driver.destroy(domain.id)
  await b.driver.forget(domain.id)
  await b.driver.forget(domain.id)
  assert.deepEqual(await readdir(join(b.folder, 'data')).then((names) => names.filter((name) => name === domain.id)), [])
  assert.equal((await b.driver.readConsole(domain.id, 0, 100)).content.length, 0)
})

test('a pause that was asked for is never told with another cause, however the answer and the event meet', async (t) => {
  const b = await bench(t)
  const domain = await running(b)
  const events = watch(b.driver)
  for (let round = 0; round < 40; round += 1) {
    await b.driver.pause(domain.id)
    assert.deepEqual(await b.driver.state(domain.id), { kind: 'paused', cause: 'requested' })
    await b.driver.unpause(domain.id)
  }
  await until(() => events.filter((event) => event.state.kind === 'running').length === 41, 'all told, and the first start')
  assert.deepEqual(
    events.filter((event) => event.state.kind === 'paused').map((event) => 'cause' in event.state && event.state.cause),
    Array.from({ length: 41 }, () => 'requested'),
  )
})

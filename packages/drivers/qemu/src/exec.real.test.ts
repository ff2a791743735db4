/** Commands in a real Linux through its real agent, where they end otherwise than by an exit. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Fault } from '@typevisor/base'
import { bench, microImage, until, type Bench } from './testing.ts'

const run = promisify(execFile)

async function booted(b: Bench) {
  const { boot, rootDisk } = await microImage()
  const path = join(b.folder, 'micro.qcow2')
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', rootDisk.path, '-F', rootDisk.format, path])
  const domain = await b.domain({ memoryMib: 256, boot, volumes: { root: { kind: 'file', path, format: 'qcow2' } } })
  await b.driver.create(domain)
  await b.driver.unpause(domain.id)
  const answers = () =>
    b.driver.exec(domain.id, { argv: ['/bin/true'], timeoutMs: 5000 }).then(
      () => true,
      () => false,
    )
  await until(answers, 'it has booted', 60_000)
  return { domain, answers }
}

test('output that is longer than the agent keeps says so', async (t) => {
  const b = await bench(t)
  const { domain } = await booted(b)
  const argv = ['/bin/sh', '-c', 'head -c 17000000 /dev/zero']
  const { exitCode, stdout, truncated } = await b.driver.exec(domain.id, { argv, timeoutMs: 60_000 })
  assert.deepEqual([exitCode, stdout.length, truncated], [0, 16 * 1024 * 1024, true])
})

test('a command that panics, reboots or powers off its guest ends with the guest, not with its limit', async (t) => {
  const b = await bench(t)
  const { domain, answers } = await booted(b)
  const ends = async (command: string): Promise<string> => {
    const start = performance.now()
    const argv = ['/bin/sh', '-c', `${command}; sleep 100`]
    const ended = await b.driver.exec(domain.id, { argv, timeoutMs: 60_000 }).catch((error: unknown) => error)
    assert.ok(ended instanceof Fault && ended.code === 'failed', String(ended))
    assert.ok(performance.now() - start < 20_000, `${performance.now() - start} ms`)
    return ended.message
  }
  assert.match(await ends('reboot -f'), /the guest was reset meanwhile/)
  await sleep(500)
  await until(answers, 'it has booted again', 60_000)
  assert.match(
    await ends('echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger'),
    /the guest (panicked|was reset) meanwhile/,
  )
  await b.driver.reset(domain.id)
  await b.driver.unpause(domain.id).catch(() => {})
  await until(answers, 'it has booted once more', 60_000)
  assert.match(await ends('poweroff -f'), /the guest powered off meanwhile/)
})

/**
 * Weight, cap and bounds under cgroup v2, on a real kernel: Debian's, booted with `cgroup_no_v1=all` in a guest, where this package's own code runs
 * on Node from a second disk. Most hosts that build this have version 1 or a hierarchy that is not theirs.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { copyFile, cp, mkdir, symlink, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { bench, microImage, until } from './testing.ts'

const run = promisify(execFile)
const ROOT = fileURLToPath(new URL('../../../../', import.meta.url))

/** Runs in the guest: two processes that do nothing but count, and itself as one of several threads. */
const PROGRAM = `
import { spawn } from 'node:child_process'
import { readFileSync, readdirSync, existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Cgroups } from './packages/drivers/qemu/src/cgroups.ts'
import { nodeKernelFiles } from './packages/drivers/qemu/src/node-host.ts'
const ids = ['a', 'b', 'c'].map((end) => '0192f000-0000-7000-8000-00000000000' + end)
const busy = [0, 1].map(() => spawn('/bin/sh', ['-c', 'while :; do :; done']))
const time = (pid) => Number(readFileSync('/proc/' + pid + '/schedstat', 'latin1').split(' ')[0])
const used = async (ms) => {
  const [before, start] = [busy.map(({ pid }) => time(pid)), performance.now()]
  await sleep(ms)
  return busy.map(({ pid }, at) => (time(pid) - before[at]) / 1e6 / (performance.now() - start))
}
const cgroups = new Cgroups(nodeKernelFiles)
const told = { can: await cgroups.capability() }
for (const at of [0, 1]) await cgroups.apply(ids[at], busy[at].pid, [busy[at].pid], { weight: [100, 300][at], capPercent: 0 })
told.weights = await used(8000)
await cgroups.apply(ids[0], busy[0].pid, [busy[0].pid], { weight: 100, capPercent: 25 })
await cgroups.apply(ids[1], busy[1].pid, [busy[1].pid], { weight: 300, capPercent: 50 })
told.caps = await used(8000)
const mine = readdirSync('/proc/self/task').map(Number).filter((tid) => tid !== process.pid)
await cgroups.apply(ids[2], process.pid, mine.slice(0, 1), { weight: 10, capPercent: 10 })
const groupOf = (path) => readFileSync(path + '/cgroup', 'latin1').trim()
told.groups = [process.pid, mine[0], mine[1]].map((tid) => groupOf('/proc/self/task/' + tid))
told.heldBack = await cgroups.remove(ids[2]).then(() => 'removed', (error) => error.code)
busy[0].kill('SIGKILL')
await new Promise((resolve) => busy[0].once('close', resolve))
told.swept = await cgroups.sweep()
busy[1].kill('SIGKILL')
await new Promise((resolve) => busy[1].once('close', resolve))
await cgroups.remove(ids[1])
const within = async (id, bounds, script) => {
  const child = spawn('/bin/sh', ['-c', 'read go; ' + script])
  let said = ''
  child.stdout.on('data', (part) => (said += part))
  await cgroups.bound(id, child.pid, bounds)
  child.stdin.end('go\\n')
  await new Promise((resolve) => child.once('close', resolve))
  await cgroups.remove(id)
  return said.trim()
}
const eats = 'head -c 60000000 /dev/zero | tail | wc -c'
told.bounded = [
  await within(ids[1], { memoryBytes: 16 * 1024 * 1024, threadCount: 50 }, eats),
  await within(ids[1], { memoryBytes: 256 * 1024 * 1024, threadCount: 50 }, eats),
  await within(ids[1], { memoryBytes: 256 * 1024 * 1024, threadCount: 1 }, '(echo forked); true'),
  await within(ids[1], { memoryBytes: 256 * 1024 * 1024, threadCount: 2 }, '(echo forked); true'),
]
told.left = readdirSync('/sys/fs/cgroup/typevisor').filter((name) => name.length === 36)
console.log(JSON.stringify(told))
process.exit(0)
`

/** Node with its libraries, the packages and the program, as a file system. */
async function toolDisk(folder: string): Promise<string> {
  const tree = join(folder, 'tools')
  await mkdir(join(tree, 'lib'), { recursive: true })
  await copyFile(process.execPath, join(tree, 'node'))
  const { stdout } = await run('ldd', [process.execPath])
  for (const [path] of stdout.matchAll(/\/\S+\.so[.\d]*/g)) await copyFile(path, join(tree, 'lib', basename(path)))
  await mkdir(join(tree, 'node_modules', '@typevisor'), { recursive: true })
  for (const name of ['base', 'model', 'drivers/qemu']) {
    for (const part of ['src', 'package.json'])
      await cp(join(ROOT, 'packages', name, part), join(tree, 'packages', name, part), { recursive: true })
    if (name !== 'drivers/qemu') await symlink(`../../packages/${name}`, join(tree, 'node_modules', '@typevisor', name))
  }
  await writeFile(join(tree, 'package.json'), '{"type":"module"}')
  await writeFile(join(tree, 'main.js'), PROGRAM)
  const disk = join(folder, 'tools.raw')
  await run('mke2fs', ['-q', '-t', 'ext4', '-d', tree, disk, '256M'], { env: { PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } })
  return disk
}

interface Told {
  readonly can: { readonly can: boolean }
  readonly weights: [number, number]
  readonly caps: [number, number]
  readonly groups: [string, string, string]
  readonly heldBack: string
  readonly swept: string[]
  readonly bounded: [string, string, string, string]
  readonly left: string[]
}

test(
  'cgroup v2: weights share, caps and bounds hold, threads lie where they are to, and nothing is left',
  { timeout: 600_000 },
  async (t) => {
    const b = await bench(t)
    const image = await microImage()
    assert.ok(image.boot.kind === 'kernel')
    const root = join(b.folder, 'root.qcow2')
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', image.rootDisk.path, '-F', image.rootDisk.format, root])
    const domain = await b.domain({
      memoryMib: 1024,
      boot: { ...image.boot, commandLine: `${image.boot.commandLine} cgroup_no_v1=all` },
      volumes: {
        root: { kind: 'file', path: root, format: 'qcow2' },
        tools: { kind: 'file', path: await toolDisk(b.folder), format: 'raw' },
      },
    })
    await b.driver.create(domain)
    await b.driver.unpause(domain.id)
    const sh = (script: string, timeoutMs: number) => b.driver.exec(domain.id, { argv: ['/bin/sh', '-c', script], timeoutMs })
    await until(
      () =>
        sh('true', 5000).then(
          () => true,
          () => false,
        ),
      'it boots',
      60_000,
    )
    const loader = '/mnt/lib/ld-linux-x86-64.so.2 --library-path /mnt/lib /mnt/node'
    const script = `mount -t cgroup2 none /sys/fs/cgroup && mount /dev/vdb /mnt && cd /mnt && ${loader} --no-warnings main.js`
    const { exitCode, stdout, stderr } = await sh(script, 400_000)
    const said = new TextDecoder().decode(stdout)
    assert.equal(exitCode, 0, `${said} ${new TextDecoder().decode(stderr)}`)
    const told = JSON.parse(said) as Told // as the program prints it
    t.diagnostic(said.trim())
    assert.deepEqual(told.can, { can: true })
    const [one, three] = told.weights
    assert.ok(three / one > 2.2 && three / one < 4, `weights of 1 to 3 share as 1 to ${three / one}`)
    assert.ok(told.caps[0] < 0.28 && told.caps[0] > 0.15, `capped at 25 %: ${told.caps[0]}`)
    assert.ok(told.caps[1] < 0.55 && told.caps[1] > 0.35, `capped at 50 %: ${told.caps[1]}`)
    const group = '0::/typevisor/0192f000-0000-7000-8000-00000000000c'
    assert.deepEqual(told.groups, [group, `${group}/vcpus`, group])
    assert.equal(told.heldBack, 'busy')
    assert.deepEqual(told.swept, ['0192f000-0000-7000-8000-00000000000a'])
    const [starved, ate, barren, forked] = told.bounded
    assert.notEqual(starved, '60000000', 'it gets no more memory than its bound')
    assert.deepEqual([ate, barren, forked], ['60000000', '', 'forked'])
    assert.deepEqual(told.left, ['0192f000-0000-7000-8000-00000000000c'], 'its own stays, and no other')
  },
)

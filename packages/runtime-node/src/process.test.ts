import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { closeSync, openSync, statSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Fault } from '@typevisor/base'
import { lockFile, lockHolder } from './lockfile.ts'
import { endProcess, signalProcess, waitForExit } from './pidfd.ts'
import { makeNamedPipe } from './pipe.ts'
import { isRoot, parsePasswd, userByName } from './privileges.ts'
import { parseStat, processAlive, processIdentity, spawnDetached, type ProcessIdentity } from './process.ts'
import { reachable } from './reachable.ts'

const PATH = process.env['PATH'] ?? '/usr/bin:/bin'

async function folderFor(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'tv-process-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  return folder
}

const until = async (what: () => Promise<boolean> | boolean): Promise<void> => {
  for (let turn = 0; turn < 500; turn += 1) {
    if (await what()) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  assert.fail('it did not come to pass in 5 s')
}

test('a detached process has its own session, its own environment, and writes where it was told', async (t) => {
  const folder = await folderFor(t)
  const stderrFile = join(folder, 'out')
  const child = await spawnDetached({
    argv: ['sh', '-c', 'echo "$WHO $HOME"; echo problem >&2; exit 3'],
    env: { PATH, WHO: 'guest' },
    stderrFile,
  })
  assert.deepEqual(await child.exited, { kind: 'exit', code: 3 })
  assert.equal(await readFile(stderrFile, 'utf8'), 'guest \nproblem\n')
})

test('arguments are never read by a shell', async (t) => {
  const folder = await folderFor(t)
  const stderrFile = join(folder, 'out')
  const child = await spawnDetached({ argv: ['echo', '$(id)', ';', 'id', '&&'], env: { PATH }, stderrFile })
  await child.exited
  assert.equal(await readFile(stderrFile, 'utf8'), '$(id) ; id &&\n')
})

test('descriptors are handed over as standard input and from 3 on', async (t) => {
  const folder = await folderFor(t)
  await writeFile(join(folder, 'in'), 'from stdin\n')
  const [input, extra] = [openSync(join(folder, 'in'), 'r'), openSync(join(folder, 'extra'), 'w')]
  const child = await spawnDetached({ argv: ['sh', '-c', 'cat >&3'], env: { PATH }, stdinFd: input, extraFds: [extra] })
  await child.exited
  closeSync(input)
  closeSync(extra)
  assert.equal(await readFile(join(folder, 'extra'), 'utf8'), 'from stdin\n')
})

test('a program that is not there is Fault not_found', async () => {
  await assert.rejects(
    spawnDetached({ argv: ['/no/such/program'] }),
    (error) => error instanceof Fault && error.code === 'not_found',
  )
})

test('a detached process outlives the SIGKILL of its parent', async (t) => {
  const folder = await folderFor(t)
  const program = join(folder, 'parent.ts')
  const module = fileURLToPath(new URL('./process.ts', import.meta.url))
  await writeFile(
    program,
    `import { spawnDetached } from ${JSON.stringify(module)}
     import { writeSync } from 'node:fs'
     const { exited, ...identity } = await spawnDetached({ argv: ['sleep', '60'], env: { PATH: ${JSON.stringify(PATH)} } })
     writeSync(1, JSON.stringify(identity))
     process.kill(process.pid, 'SIGKILL')`,
  )
  const parent = spawn(process.execPath, [program], { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  parent.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
  await new Promise((resolve) => parent.once('close', resolve))
  assert.equal(parent.signalCode, 'SIGKILL')
  const identity = JSON.parse(said) as ProcessIdentity
  assert.ok(processAlive(identity))
  assert.equal(await endProcess(identity, { graceMs: 5000 }), 'ended')
  assert.equal(await endProcess(identity, { graceMs: 5000 }), 'gone')
})

test('the exits of many processes are noticed at once, each when it happens', async () => {
  const children = await Promise.all(
    ['0.1', '0.2', '0.3', '20'].map((time) => spawnDetached({ argv: ['sleep', time], env: { PATH } })),
  )
  const order: number[] = []
  const startedAt = performance.now()
  const waiting = children.map((child, index) => waitForExit(child).then(() => order.push(index)))
  await Promise.all(waiting.slice(0, 3))
  assert.ok(performance.now() - startedAt < 2000)
  assert.equal(signalProcess(children[3]!, 'SIGKILL'), true)
  await waiting[3]
  assert.deepEqual(order, [0, 1, 2, 3])
  assert.equal(signalProcess(children[3]!, 'SIGKILL'), false)
})

test('who gives up waiting leaves the process alone', async () => {
  const child = await spawnDetached({ argv: ['sleep', '20'], env: { PATH } })
  await assert.rejects(
    waitForExit(child, { signal: AbortSignal.timeout(50) }),
    (error) => (error as Error).name === 'TimeoutError',
  )
  assert.ok(processAlive(child))
  const later = waitForExit(child)
  signalProcess(child, 'SIGTERM')
  await later
})

test('a process that does not listen is killed after its grace', async () => {
  const child = await spawnDetached({ argv: ['sh', '-c', 'trap "" TERM; while :; do sleep 0.05; done'], env: { PATH } })
  await new Promise((resolve) => setTimeout(resolve, 100))
  assert.equal(await endProcess(child, { graceMs: 100 }), 'killed')
})

test('a stranger with the same number gets no signal', async () => {
  const child = await spawnDetached({ argv: ['sleep', '20'], env: { PATH } })
  const stranger = { ...child, startTimeTicks: child.startTimeTicks - 1 }
  const otherBoot = { ...child, bootId: '00000000-0000-0000-0000-000000000000' }
  for (const identity of [stranger, otherBoot]) {
    assert.equal(processAlive(identity), false)
    assert.equal(signalProcess(identity, 'SIGKILL'), false)
    await waitForExit(identity)
  }
  assert.ok(processAlive(child))
  assert.equal(await endProcess(child, { graceMs: 1000 }), 'ended')
})

test('the start time is read behind any name', () => {
  const fields = Array.from({ length: 30 }, (_, index) => String(index + 4)).join(' ')
  assert.deepEqual(parseStat(`12 (a b) (c) R) S ${fields}`), { state: 'S', startTimeTicks: 22 })
  assert.equal(parseStat(''), null)
  assert.equal(processIdentity(0), null)
  assert.equal(processIdentity(process.pid)?.pid, process.pid)
})

test('a data directory is held by one process, and free when that is killed', async (t) => {
  const folder = await folderFor(t)
  const path = join(folder, 'lock')
  const program = join(folder, 'holder.ts')
  const module = fileURLToPath(new URL('./lockfile.ts', import.meta.url))
  await writeFile(
    program,
    `import { lockFile } from ${JSON.stringify(module)}\nlockFile(${JSON.stringify(path)})\nconsole.log('held')\nsetInterval(() => {}, 1000)`,
  )
  // The module is told by its path: this folder has no packages, so koffi is found from the module's own place.
  const holder = spawn(process.execPath, [program], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise((resolve) => holder.stdout.once('data', resolve))
  assert.throws(
    () => lockFile(path),
    (error) => error instanceof Fault && error.code === 'conflict' && error.message.includes(`process ${holder.pid}`),
  )
  assert.equal(lockHolder(path)?.pid, holder.pid)
  holder.kill('SIGKILL')
  await new Promise((resolve) => holder.once('close', resolve))
  // The file still names it.
  assert.equal(lockHolder(path), null)
  assert.equal(lockHolder(join(folder, 'none')), null)
  {
    using _held = lockFile(path)
    assert.throws(
      () => lockFile(path),
      (error) => error instanceof Fault && error.message.includes(`process ${process.pid}`),
    )
  }
  using _again = lockFile(path)
})

test('a path is reachable when every folder above it may be searched', async (t) => {
  const folder = await folderFor(t)
  const [nobody, me] = [
    { uid: 65534, gid: 65534 },
    { uid: process.getuid!(), gid: process.getgid!() },
  ]
  assert.deepEqual(reachable('/usr/bin/env', nobody), { kind: 'reachable' })
  assert.deepEqual(reachable(join(folder, 'file'), nobody), { kind: 'blocked', path: folder, want: 'search' })
  assert.deepEqual(reachable(join(folder, 'file'), me), { kind: 'missing', path: join(folder, 'file') })
  assert.deepEqual(reachable(folder, me, ['search', 'read', 'write']), { kind: 'reachable' })
  assert.deepEqual(reachable('/etc/passwd', nobody, ['write']), { kind: 'blocked', path: '/etc/passwd', want: 'write' })
})

test('users are looked up in /etc/passwd', () => {
  const users = parsePasswd(
    'root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\n\nqemu:x:107:108:QEMU,,,:/nonexistent:/usr/sbin/nologin\n',
  )
  assert.deepEqual(userByName('qemu', users), { name: 'qemu', uid: 107, gid: 108, home: '/nonexistent' })
  assert.equal(userByName('broken', users), null)
  assert.equal(userByName('root')?.uid, 0)
})

test('a process runs as the user it was given, without the groups of root', async (t) => {
  if (!isRoot()) return t.skip('only root can change users')
  const folder = await folderFor(t)
  const stderrFile = join(folder, 'out')
  const child = await spawnDetached({
    argv: ['sh', '-c', 'id -u; id -G'],
    env: { PATH },
    stderrFile,
    uid: 65534,
    gid: 65534,
    oomScore: 500,
  })
  await child.exited
  assert.equal(await readFile(stderrFile, 'utf8'), '65534\n65534\n')
})

/** Command lines of our children, from /proc (proc_pid_stat(5): the name in brackets may hold anything, the parent is the second after it). */
async function childrenCommands(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const commands = pids.map(async (pid) => {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
    const [, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    if (Number(parent) !== process.pid) return []
    return [(await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0').join(' ').trim()]
  })
  // One that has ended meanwhile is none of them.
  return (await Promise.all(commands.map((command) => command.catch(() => [])))).flat()
}

test('the tests above end without a process left behind', async () => {
  await until(async () => !(await childrenCommands()).includes('sleep 20'))
})

test('a named pipe is for its owner alone, and one that is there already is told of', async (t) => {
  const path = join(await folderFor(t), 'pipe')
  assert.equal(makeNamedPipe(path), true)
  const stat = statSync(path)
  assert.ok(stat.isFIFO())
  assert.equal(stat.mode & 0o777, 0o600)
  assert.throws(() => makeNamedPipe(path), { code: 'failed', message: /pipe: file already exists/ })
})

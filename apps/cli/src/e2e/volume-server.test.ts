/**
 * The disks of a guest, and who serves them: the volume server is killed, replaced, outlives the platform, is outlived by it, and the guest
 * writes on, under the lease with which it was started and as the only writer. It writes a number, syncs and says so on its console, again and again; at the end every number is on its disk, in order.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { connectNbd } from '@typevisor/nbd'
import { processIdentity, spawnDetached, userByName, waitForExit } from '@typevisor/runtime-node'
import { askServer, type ServerHello, type VolumeDescription } from '@typevisor/storage'
import { VERSION } from '../version.ts'
import { guestsOf, machine, processesOf, run, runTagOf, until, type Life } from './child.ts'

const PROGRAM = fileURLToPath(import.meta.resolve('@typevisor/agent')).replace(/index\.ts$/, 'volumes/process.ts')
const NAME = 'writer'
/** Another holder of leases than the host. */
const OTHER = '11111111-2222-4333-8444-555555555555'
const WRITES = `cd /root; n=0; while :; do n=$((n+1)); echo "$n" >> numbers; head -c 20000 /dev/urandom > "$((n%20))"; sync; echo "wrote $n;"; done`

describe('the volume server of a guest that writes', async () => {
  const host = await machine()
  after(() => host[Symbol.asyncDispose]())
  const agentDir = join(host.dataDir, 'agent')
  const disks = join(agentDir, 'disks')
  let life: Life
  let id = ''
  let qemu = 0
  let epoch = 0

  const hello = async (): Promise<ServerHello> => {
    const server = await askServer(disks)
    assert.ok(server, 'a volume server answers')
    try {
      return await server.call('hello', {})
    } finally {
      server.close()
    }
  }
  const leaseOfDisk = async (): Promise<VolumeDescription['lease']> => {
    const server = await askServer(disks)
    assert.ok(server, 'a volume server answers')
    try {
      const disk = await server.call('get', { name: `${id}.root` })
      assert.ok(disk, 'the disk is there')
      return disk.lease
    } finally {
      server.close()
    }
  }
  const lease = async (...words: string[]): Promise<void> => {
    const { code, said } = await run(['volume', 'lease', ...words, '--dir', disks])
    assert.equal(code, 0, said)
  }
  const serves = (): Promise<boolean> =>
    hello().then(
      () => true,
      () => false,
    )
  const serverIs = async (pid: number): Promise<boolean> => (await serves()) && (await hello()).pid === pid
  const kill = async (pid: number, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
    const identity = processIdentity(pid)
    assert.ok(identity)
    process.kill(pid, signal)
    await waitForExit(identity)
  }
  /** By the file that QEMU writes: it asks no platform. */
  const consoleLog = (): string => readFileSync(join(agentDir, 'domains', id, 'console.log'), 'utf8')
  const beginnings = (): number => [...consoleLog().matchAll(/wrote 5;/g)].length
  const written = (): number => Number([...consoleLog().matchAll(/wrote (\d+);/g)].at(-1)?.[1] ?? 0)
  const writesOn = async (): Promise<void> => {
    // Some may have been under way before.
    const before = written() + 5
    await until('the guest writes on', () => written() > before)
    assert.deepEqual([...guestsOf(agentDir).values()], [qemu])
  }
  const inGuest = async (script: string): Promise<string> => {
    const params = { instance: NAME }
    const reply = await life.client.call('instance.exec', {
      params,
      body: { argv: ['/bin/sh', '-c', script], timeoutMs: 60_000 },
    })
    assert.equal(reply.exitCode, 0, JSON.stringify(reply))
    return Buffer.from(reply.stdoutBase64, 'base64').toString()
  }
  const answers = (): Promise<boolean> =>
    inGuest('true').then(
      () => true,
      () => false,
    )
  const done = async (verb: 'save' | 'restore' | 'poweroff' | 'start' | 'destroy'): Promise<void> => {
    const { operation } = await life.client.call(`instance.${verb}`, { params: { instance: NAME }, query: { wait: 60 } })
    assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
    qemu = guestsOf(agentDir).get(id) ?? 0
  }
  const isWell = async (): Promise<void> => {
    const complaints = await inGuest(
      `dmesg | grep -iE 'i/o error|ext4-fs (error|warning)|blk_update|buffer i/o|hung task' || true`,
    )
    assert.equal(complaints, '')
    // From the disk, not from the guest's memory.
    const count = written()
    const numbers = await inGuest('echo 3 > /proc/sys/vm/drop_caches; cat /root/numbers')
    const lines = numbers.trimEnd().split('\n')
    assert.ok(lines.length >= count, `${lines.length} numbers are there, ${count} were written`)
    assert.deepEqual(
      lines,
      lines.map((_line, index) => String(index + 1)),
    )
    const state = (await life.client.call('instance.get', { params: { instance: NAME } })).state.kind
    assert.equal(state, 'running')
    const { holder, epoch: now } = await leaseOfDisk()
    assert.deepEqual([holder, now], [readFileSync(join(agentDir, 'holder'), 'utf8').trim(), epoch])
  }

  test('a guest boots from a clone of its image, served over NBD to its own user', async () => {
    life = await host.start()
    const built = await life.client.call('image.build', { params: { image: 'micro' }, body: {}, query: { wait: 60 } })
    assert.equal(built.operation.state, 'done', JSON.stringify(built.operation.fault))
    const body = { name: NAME, image: 'micro', memoryBytes: 160 * 1024 * 1024 }
    const { instance, operation } = await life.client.call('instance.create', { body, query: { wait: 60 } })
    assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
    id = String(instance?.id)
    qemu = guestsOf(agentDir).get(id) ?? 0
    assert.ok(qemu > 0)
    const { command } = processesOf(`-uuid ${id}`).find(({ pid }) => pid === qemu) ?? { command: '' }
    const lease = await leaseOfDisk()
    epoch = lease.epoch
    assert.equal(lease.holder, readFileSync(join(agentDir, 'holder'), 'utf8').trim())
    assert.match(command, new RegExp(`"driver":"nbd".*"export":"${id}\\.root:${epoch}"`))
    assert.deepEqual(
      (await readdir(join(agentDir, 'volumes'))).filter((name) => name.endsWith('.qcow2')),
      [],
    )
    assert.deepEqual(
      (({ version, attachmentCount, connectionCount }) => ({ version, attachmentCount, connectionCount }))(await hello()),
      {
        version: VERSION,
        attachmentCount: 1,
        connectionCount: 1,
      },
    )
    await until('the guest answers', answers)
    await inGuest(`(${WRITES}) >/dev/ttyS0 2>&1 </dev/null &`)
    await writesOn()
    const doctor = await run(['doctor'], { TYPEVISOR_DATA: host.dataDir })
    assert.match(
      doctor.said,
      new RegExp(`ok {4}volume server: version ${VERSION}, process ${(await hello()).pid}, .* 1 volume attached`),
    )
  })

  test('whoever else opens its disk reads, and is refused to write', async () => {
    const socket = join(disks, 'data.sock')
    const [before, name] = [written(), `${id}.root`]
    await using other = await connectNbd({ address: { socketPath: socket }, exportName: name })
    assert.equal(other.readOnly, true)
    await other.read(0, new Uint8Array(4096))
    const io = (...argv: string[]) => {
      const { status, stdout, stderr } = spawnSync('qemu-io', ['-f', 'raw', ...argv, `nbd+unix:///${name}?socket=${socket}`])
      return { status, said: `${stdout}${stderr}` }
    }
    assert.equal(io('-r', '-c', 'read 0 4096').status, 0)
    const refused = io('-c', 'write 0 4096')
    assert.notEqual(refused.status, 0, refused.said)
    assert.match(refused.said, /permission denied|read-only/i)
    for (const words of [
      ['volume', 'delete', name],
      ['volume', 'lease', 'acquire', name, '--holder', OTHER],
    ]) {
      const said = await run([...words, '--dir', disks])
      assert.notEqual(said.code, 0)
      assert.match(said.said, /leased/)
    }
    await until('the guest writes on', () => written() > before + 5)
    assert.deepEqual(await leaseOfDisk(), { holder: (await leaseOfDisk()).holder, epoch })
  })

  test('killed under it, it is there again, and the guest has seen no error', async () => {
    for (let round = 0; round < 3; round += 1) {
      const { pid } = await hello()
      await kill(pid)
      await until('another one serves', async () => (await serves()) && !(await serverIs(pid)))
      await writesOn()
    }
    await isWell()
  })

  test('stopped under it without an end, it is killed and replaced, and the guest has seen no error', async () => {
    const { pid } = await hello()
    process.kill(pid, 'SIGSTOP')
    const identity = processIdentity(pid)
    assert.ok(identity)
    await waitForExit(identity)
    await until('another one serves', serves)
    assert.notEqual((await hello()).pid, pid)
    await writesOn()
    await isWell()
  })

  /** What the host's events say of it, the oldest first: `serving started`. */
  const went = async (): Promise<string[]> => {
    const query = { resource: 'local', search: 'host.volume-server' }
    const { items } = await life.client.call('event.list', { query })
    return items.toReversed().map(({ data }) => `${String(data['to'])} ${String(data['cause'])}`)
  }

  test('the host shows it, and its deaths are events of the host', async () => {
    const killed = ['away ended', 'serving started']
    const want = ['serving started', ...killed, ...killed, ...killed, 'away hung', 'serving started']
    await until('all of it is told', async () => (await went()).length >= want.length)
    assert.deepEqual(await went(), want)
    const { volumeServer } = await life.client.call('host.get', { params: { host: 'local' } })
    assert.deepEqual([volumeServer?.state, volumeServer?.version, volumeServer?.attachedCount], ['serving', VERSION, 1])
    assert.ok(volumeServer?.space && volumeServer.space.usedBytes > 0 && volumeServer.space.availableBytes > 0)
    const shown = await run(['host', 'get', 'local'], { TYPEVISOR_DATA: host.dataDir })
    assert.match(shown.said, new RegExp(`volume server\\n(.*\\n)*  state +serving\\n(.*\\n)*  version +${VERSION}\\n`))
  })

  test('it and the guest go on without the platform, and the next platform finds both', async () => {
    const { pid } = await hello()
    await life.child.kill('SIGKILL')
    await writesOn()
    life = await host.start()
    assert.equal((await hello()).pid, pid)
    await writesOn()
    await life.child.kill('SIGTERM')
    await writesOn()
    assert.equal((await hello()).pid, pid)
    life = await host.start()
    await isWell()
  })

  test('killed together with the platform, the guest waits for the next one', async () => {
    const { pid } = await hello()
    await life.child.kill('SIGKILL')
    await kill(pid)
    life = await host.start()
    await writesOn()
    await isWell()
    // Nobody was there to note it.
    await until('its death is told', async () => (await went()).includes('away unknown'))
  })

  test('one of an older version is replaced under it', async () => {
    await life.child.kill('SIGKILL')
    // In place of the one of now, one that says it is older.
    const { pid } = await hello()
    const now = processIdentity(pid)
    assert.ok(now)
    const server = await askServer(disks)
    await server?.call('stop', { force: true })
    await waitForExit(now)
    const argv = [process.execPath, PROGRAM, '--dir', disks, '--version', '0.0.1']
    const old = await spawnDetached({ argv, env: { PATH: process.env['PATH'] ?? '' }, stderrFile: `${disks}.log` })
    await until('the old one serves', () => serverIs(old.pid))
    const again = await askServer(disks)
    assert.ok(again)
    const socketPath = join('/run/typevisor', runTagOf(agentDir), 'nbd', `${id}.root.sock`)
    const user = userByName('typevisor-qemu')
    await again.call('attach', { volume: `${id}.root:${epoch}`, socketPath, ...(user ? { uid: user.uid, gid: user.gid } : {}) })
    again.close()
    await writesOn()

    life = await host.start()
    await until('it is of this version', async () => (await serves()) && (await hello()).version === VERSION)
    assert.equal(processIdentity(old.pid), null)
    await writesOn()
    await isWell()
  })

  test('a guest that is saved has no disk served, and writes on where it was when it is restored', async () => {
    await done('save')
    assert.equal((await hello()).attachmentCount, 0)
    assert.equal((await leaseOfDisk()).holder, null, 'nobody has it')
    const before = written()
    await done('restore')
    assert.ok((await leaseOfDisk()).epoch > epoch, 'each run has an epoch of its own')
    epoch = (await leaseOfDisk()).epoch
    await until('it writes on', () => written() > before + 5)
    await isWell()
  })

  test('taken over by another, the guest is shut out; it starts again when the disk is given back', async () => {
    const name = `${id}.root`
    const instance = () => life.client.call('instance.get', { params: { instance: NAME } })
    const before = beginnings()
    await lease('acquire', name, '--holder', OTHER, '--epoch', String(epoch))
    await until('its next write stops it', async () => {
      const { state } = await instance()
      return state.kind === 'paused' && state.cause === 'io-error'
    })
    await done('poweroff')
    const taken = await leaseOfDisk()
    assert.equal(taken.holder, OTHER, 'it is not given back by whom it is not')
    const { operation } = await life.client.call('instance.start', { params: { instance: NAME }, query: { wait: 60 } })
    assert.deepEqual([operation.state, operation.fault?.code], ['undone', 'conflict'])
    assert.match(operation.fault?.message ?? '', /leased by 11111111-.* in epoch/)
    await lease('release', name, '--epoch', String(taken.epoch))
    await done('start')
    epoch = (await leaseOfDisk()).epoch
    assert.ok(epoch > taken.epoch)
    await until('the guest answers', answers)
    await inGuest(`mv /root/numbers /root/before; (${WRITES}) >/dev/ttyS0 2>&1 </dev/null &`)
    await until('it writes on from its beginning', () => beginnings() > before)
    await isWell()
  })

  test('`down` leaves it with its guest; `down --guests` ends both', async () => {
    const { pid } = await hello()
    const env = { TYPEVISOR_DATA: host.dataDir }
    const down = await run(['down'], env)
    assert.equal(down.code, 0, down.said)
    assert.equal((await hello()).pid, pid)
    await writesOn()
    life = await host.start()
    const all = await run(['down', '--guests', '--yes'], env)
    assert.equal(all.code, 0, all.said)
    assert.equal(await life.child.exited, 0)
    assert.equal(processIdentity(pid), null)
    assert.equal(existsSync(join(disks, 'control.sock')), false)
    assert.equal(guestsOf(agentDir).size, 0)

    life = await host.start()
    await done('start')
    await until('the guest answers', answers)
    assert.equal(await inGuest(`awk 'NR != $1' /root/numbers | head`), '')
    await done('poweroff')
    assert.equal((await leaseOfDisk()).holder, null, 'nobody has it')
    await lease('acquire', `${id}.root`, '--holder', OTHER)
    const { operation } = await life.client.call('instance.destroy', { params: { instance: NAME }, query: { wait: 60 } })
    assert.deepEqual([operation.state, operation.fault?.code], ['undone', 'conflict'])
    const { holder, epoch: last } = await leaseOfDisk()
    assert.equal(holder, OTHER)
    assert.ok(existsSync(join(agentDir, 'volumes', `${id}.seed.raw`)), 'nothing of it is gone')
    await lease('release', `${id}.root`, '--epoch', String(last))
    await done('destroy')
    const server = await askServer(disks)
    const names = (await server?.call('list', {}))?.map(({ name }) => name)
    server?.close()
    assert.ok(
      names?.every((name) => name.startsWith('gold-')),
      names?.join(' '),
    )
  })
})

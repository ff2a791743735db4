/** Who a guest is on its host: as root a user with no rights, in a sandbox; and never root. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { userByName } from '@typevisor/runtime-node'
import { guestsOf, machine, processesOf, typevisor } from './child.ts'

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url))
const isRoot = process.geteuid?.() === 0

test('a guest that the platform starts is in its sandbox, and as root it is typevisor-qemu with no capability', async () => {
  await using host = await machine()
  const { child, client } = await host.start()
  const built = await client.call('image.build', { params: { image: 'micro' }, body: {}, query: { wait: 60 } })
  assert.equal(built.operation.state, 'done', JSON.stringify(built.operation.fault))
  const { instance } = await client.call('instance.create', { body: { name: 'guest' }, query: { wait: 60 } })
  const pid = guestsOf(join(host.dataDir, 'agent')).get(String(instance?.id))
  assert.ok(pid)
  const status = new Map(
    readFileSync(`/proc/${pid}/status`, 'utf8')
      .split('\n')
      .map((line) => line.split(/:\s+/) as [string, string]),
  )
  // proc_pid_status(5): 2 is SECCOMP_MODE_FILTER.
  assert.deepEqual([status.get('Seccomp'), status.get('NoNewPrivs')], ['2', '1'])
  const user = isRoot ? userByName('typevisor-qemu') : { uid: process.geteuid?.(), gid: process.getegid?.() }
  assert.ok(user)
  assert.equal(status.get('Uid'), Array(4).fill(user.uid).join('\t'))
  assert.equal(status.get('Gid'), Array(4).fill(user.gid).join('\t'))
  if (isRoot) {
    assert.notEqual(user.uid, 0)
    assert.equal(status.get('Groups')?.trim(), '')
    for (const set of ['CapEff', 'CapPrm', 'CapInh', 'CapAmb']) assert.match(status.get(set) ?? '', /^0+$/, set)
  }
  assert.equal(
    (await client.call('instance.destroy', { params: { instance: 'guest' }, query: { wait: 60 } })).operation.state,
    'done',
  )
  await child.kill('SIGTERM')
})

test(
  'as root without a user for guests, start refuses with the command that makes it, and leaves nothing behind',
  { skip: isRoot ? false : 'wants root' },
  async () => {
    await using host = await machine()
    const passwd = join(host.dataDir, 'passwd')
    const users = readFileSync('/etc/passwd', 'utf8').split('\n')
    await writeFile(passwd, users.filter((line) => !line.startsWith('typevisor-qemu:')).join('\n'))
    // In a name space of its own, /etc/passwd is that of a machine that nothing was set up on.
    const mounted = ['unshare', '--mount', 'sh', '-c', 'mount --bind "$0" /etc/passwd && exec "$@"', passwd]
    const words = ['start', '--port', '0', '--data', join(host.dataDir, 'data'), '--empty']
    await using child = typevisor(words, {}, [...mounted, process.execPath, MAIN])
    assert.equal(await child.exited, 1)
    assert.match(
      child.said(),
      /guests are not run as root, and there is no user typevisor-qemu; this makes it: useradd --system .* typevisor-qemu\n/,
    )
    assert.doesNotMatch(child.said(), /^\s+at /m, 'no stack')
    assert.doesNotMatch(child.said(), /portal:/)
    assert.equal(existsSync(join(host.dataDir, 'data/postgresql/pgdata/postmaster.pid')), false, 'its database is stopped')
    assert.deepEqual(processesOf(join(host.dataDir, 'data')), [])
  },
)

/** The micro image, built from Debian's packages and booted under QEMU. Needs: apt's archive (first time), qemu-system-x86, qemu-utils, e2fsprogs. */
import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { epochMillis, Fault, gib, mib } from '@typevisor/base'
import { parseImageName, parseVolumeId, type CloudInitSpec } from '@typevisor/model'
import {
  fileOf,
  nodeCommandRunner,
  nodeVolumeFiles,
  qcow2VolumeStore,
  type CommandRunner,
  type VolumeStore,
} from '@typevisor/storage'
import { createImageStore } from './node-image-store.ts'
import type { Image, ImageStore } from './ports.ts'
import { buildSeed } from './seed.ts'
import { bootBareGuest, missingQemu, type BareGuest } from './testing.ts'

const run = promisify(execFile)
const cacheFolder =
  process.env['TYPEVISOR_CACHE'] ?? (process.getuid?.() === 0 ? '/var/cache/typevisor' : join(homedir(), '.cache', 'typevisor'))
const micro = parseImageName('micro')
const clock = { now: () => epochMillis(Date.now()) }
const id = (index: number, suffix = '') => parseVolumeId(`01890000-0000-7000-8000-${String(index).padStart(12, '0')}${suffix}`)

describe('the micro image', { skip: missingQemu(), timeout: 600_000 }, () => {
  let folder: string
  let store: ImageStore
  let volumes: VolumeStore
  let image: Image
  let key: string
  let sshPort: number

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'typevisor-micro-'))
    store = createImageStore({ folder: join(folder, 'images'), cacheFolder, clock })
    volumes = qcow2VolumeStore({ files: await nodeVolumeFiles({ folder: join(folder, 'volumes') }), runner: nodeCommandRunner() })
    image = await store.build(micro)
    sshPort = await freePort()
    const made = spawnSync('ssh-keygen', [
      '-q',
      '-t',
      'ed25519',
      '-N',
      '',
      '-C',
      `it's "me" $(id) # : - &`,
      '-f',
      join(folder, 'key'),
    ])
    key =
      made.status === 0
        ? (await readFile(join(folder, 'key.pub'), 'utf8')).trim()
        : `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKcreSq0k9tIr6YyBiFlm5unFyRn6zeyK it's "me" $(id) # : - &`
  })
  after(() => rm(folder, { recursive: true, force: true }))

  /** A guest with its own clone and seed; index names both, so that the same index is the same disk again. */
  async function guest(
    index: number,
    cloudInit: Partial<CloudInitSpec> = {},
    rootDiskBytes = image.rootDisk.virtualBytes,
    instance = `i-${index}`,
  ): Promise<BareGuest> {
    const disk = await volumes.clone(id(index), image.rootDisk, rootDiskBytes)
    const content = buildSeed({
      instanceId: instance,
      cloudInit: { hostname: `guest-${index}`, user: 'kim', sshKeys: [key], userData: null, ...cloudInit },
    })
    const seed = await volumes.put(id(index, `.${instance}`), content)
    return bootBareGuest({ image, diskPath: fileOf(disk).path, seedPath: fileOf(seed).path, sshPort })
  }

  test('a second build of the same packages gives the same digest and disk, and takes seconds', async () => {
    const startedAt = performance.now()
    const other = await createImageStore({ folder: join(folder, 'again'), cacheFolder, clock }).build(micro)
    assert.equal(other.digest, image.digest)
    assert.equal(await sha256(other.rootDisk.path), await sha256(image.rootDisk.path))
    assert.ok(performance.now() - startedAt < 60_000, `took ${performance.now() - startedAt} ms`)
    assert.deepEqual(await store.get(micro), image)
    assert.deepEqual(await store.list(), [image])
  })

  test('an aborted build leaves no half image and keeps the old one', async () => {
    const there = join(folder, 'aborted')
    const broken = createImageStore({ folder: there, cacheFolder, clock })
    const stop = new AbortController()
    const build = broken.build(micro, {
      signal: stop.signal,
      progress: (fraction) => fraction >= 0.7 && stop.abort(new Fault('aborted', 'enough')),
    })
    await assert.rejects(build, (error) => error instanceof Fault && error.code === 'aborted')
    assert.equal(await broken.get(micro), null)
    assert.deepEqual(await readdir(there), ['micro'])
    assert.deepEqual(await readdir(join(there, 'micro')), [])
  })

  test('name, account, keys, agent and ssh are there, and the power button ends it cleanly', async () => {
    await using vm = await guest(1)
    assert.equal((await vm.exec('/bin/hostname')).stdout, 'guest-1\n')
    assert.deepEqual(await vm.agent('guest-ping'), {})
    assert.match((await vm.exec('/bin/cat', '/etc/passwd')).stdout, /^kim:x:1000:1000:/m)
    assert.equal((await vm.exec('/usr/bin/id', '-Gn', 'kim')).stdout, 'kim\n', 'no group of a sudo that is not there')
    assert.equal((await vm.exec('/bin/cat', '/home/kim/.ssh/authorized_keys')).stdout, `${key}\n`)
    assert.match((await vm.exec('/bin/stat', '-c', '%a %U', '/home/kim/.ssh/authorized_keys')).stdout, /^600 kim$/m)
    assert.match(await vm.type('echo console-$((40 + 2))', /console-42/), /console-42/)
    assert.match(await banner(sshPort), /^SSH-2\.0-dropbear/)
    if (spawnSync('ssh', ['-V']).status === 0) {
      const options = [
        '-i',
        join(folder, 'key'),
        '-p',
        String(sshPort),
        '-o',
        'StrictHostKeyChecking=no',
        '-o',
        'UserKnownHostsFile=/dev/null',
        '-o',
        'BatchMode=yes',
      ]
      const { stdout } = await run('ssh', [...options, 'kim@127.0.0.1', 'id -un'])
      assert.equal(stdout, 'kim\n')
      const root = await run('ssh', [...options, 'root@127.0.0.1', 'id -un'])
      assert.equal(root.stdout, 'root\n', 'the account’s key opens root')
      await assert.rejects(run('ssh', [...options, 'kim@127.0.0.1', 'sudo id']), /this image has none; the same key opens root/)
    }
    await vm.exec('/bin/sh', '-c', 'echo kept >/root/kept')
    await vm.monitor('system_powerdown')
    assert.equal(await vm.exited(20_000), 0)
    assert.match(vm.console(), /typevisor: stopped/)
  })

  test('what was written is there at the next boot, the disk was left clean, and cloud-init runs once for an instance', async () => {
    await using vm = await guest(1)
    assert.equal((await vm.exec('/bin/cat', '/root/kept')).stdout, 'kept\n')
    assert.doesNotMatch((await vm.exec('/bin/dmesg')).stdout, /recovery complete|errors/)
    assert.equal((await vm.exec('/bin/grep', '-c', 'kim', '/etc/passwd')).stdout, '1\n')
  })

  test('the root file system grows with its volume', async () => {
    await using vm = await guest(2, {}, gib(1))
    const [, size] = /^\S+ +(\d+)/m.exec((await vm.exec('/bin/df', '-m', '/')).stdout.split('\n')[1] ?? '') ?? []
    assert.ok(Number(size) > 900, `df says ${size} MiB, want over 900`)
  })

  test("the caller's cloud-config is done: files, commands, groups, in YAML as people write it", async () => {
    const userData = [
      '#cloud-config',
      '# a comment',
      'hostname: chosen   # wins',
      'write_files:',
      '  - path: /etc/made/block',
      "    permissions: '0640'",
      '    content: |',
      "      it's $HOME `id`",
      '        indented',
      '  - {path: /etc/made/flow, content: "tab\\there \\u00e9", encoding: "text/plain"}',
      '  - path: /etc/made/b64',
      '    encoding: b64',
      '    content: aGVsbG8=',
      'users:',
      '- default',
      '- name: ann',
      '  groups: [wheel, adm]',
      '  gecos: "Ann ""',
      'runcmd:',
      '- [ touch, "/root/with space; $(id)" ]',
      '- echo done > /root/done',
      '',
    ]
      .join('\n')
      .replace('"Ann ""', '"Ann \\"A\\""')
    await using vm = await guest(3, { userData })
    assert.equal((await vm.exec('/bin/hostname')).stdout, 'chosen\n')
    assert.equal((await vm.exec('/bin/cat', '/etc/made/block')).stdout, "it's $HOME `id`\n  indented\n")
    assert.equal((await vm.exec('/bin/cat', '/etc/made/flow')).stdout, 'tab\there é')
    assert.equal((await vm.exec('/bin/cat', '/etc/made/b64')).stdout, 'hello')
    assert.equal((await vm.exec('/bin/stat', '-c', '%a', '/etc/made/block')).stdout, '640\n')
    assert.match((await vm.exec('/bin/id', 'ann')).stdout, /wheel/)
    await eventually(async () => (await vm.exec('/bin/cat', '/root/done')).stdout === 'done\n')
    assert.equal((await vm.exec('/bin/ls', '/root')).stdout, 'done\nwith space; $(id)\n')
  })

  test('a script as user-data runs, and the account comes from vendor-data', async () => {
    await using vm = await guest(4, { userData: '#!/bin/sh\nhostname >/root/script-ran\n' })
    await eventually(async () => (await vm.exec('/bin/cat', '/root/script-ran')).stdout === 'guest-4\n')
    assert.match((await vm.exec('/bin/cat', '/etc/passwd')).stdout, /^kim:/m)
  })

  test('broken user-data costs nobody the console, the agent or the keys', async () => {
    await using vm = await guest(5, { userData: '#cloud-config\nusers: [ {name: "x"\n\tbad' })
    assert.equal((await vm.exec('/bin/hostname')).stdout, 'guest-5\n')
    assert.match((await vm.exec('/bin/cat', '/var/log/cloud-init.log')).stdout, /user-data line/)
    assert.match((await vm.exec('/bin/cat', '/root/.ssh/authorized_keys')).stdout, /ssh-ed25519/)
  })

  test('without a seed it boots as micro, in the least memory that the image names', async () => {
    const disk = await volumes.clone(id(6), image.rootDisk, image.rootDisk.virtualBytes)
    await using vm = await bootBareGuest({ image, diskPath: fileOf(disk).path, memoryMib: image.minimum.memoryBytes / mib(1) })
    assert.equal((await vm.exec('/bin/hostname')).stdout, 'micro\n')
    await vm.agent('guest-shutdown').catch(() => {}) // the agent may be gone before it answers
    assert.equal(await vm.exited(20_000), 0)
  })

  test('a reboot comes to an end of the machine, and a panic stops it as a panic', async () => {
    const disk = await volumes.clone(id(7), image.rootDisk, image.rootDisk.virtualBytes)
    await using vm = await bootBareGuest({ image, diskPath: fileOf(disk).path })
    const answer = vm.type('reboot', /Restarting system|reboot: /).catch(() => '') // -no-reboot ends QEMU at the reset
    assert.equal(await vm.exited(20_000), 0)
    await answer
    await using other = await bootBareGuest({ image, diskPath: fileOf(disk).path, extra: ['-action', 'panic=shutdown'] })
    await other.exec('/bin/sh', '-c', 'echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger').catch(() => {})
    assert.equal(await other.exited(20_000), 0)
  })

  test('a missing tool is named with the package that has it', async () => {
    const runner: CommandRunner = {
      run: (argv, options) =>
        nodeCommandRunner().run(
          argv,
          argv[0] === 'mke2fs' ? { ...options, env: { ...options?.env, PATH: '/nonexistent' } } : options,
        ),
    }
    const there = join(folder, 'without')
    await assert.rejects(
      createImageStore({ folder: there, cacheFolder, clock, runner }).build(micro),
      /install the Debian package e2fsprogs/,
    )
    assert.deepEqual(await readdir(join(there, 'micro')), [])
  })

  test('apt without network is unavailable, with its words; unknown recipes are not found', async () => {
    const runner: CommandRunner = {
      run: async (argv, options) =>
        argv[0].startsWith('apt-')
          ? { exitCode: 100, stdout: new Uint8Array(0), stderr: 'E: Could not resolve deb.debian.org\n' }
          : nodeCommandRunner().run(argv, options),
    }
    const empty = join(folder, 'empty-cache')
    await mkdir(empty)
    const offline = createImageStore({ folder: join(folder, 'offline'), cacheFolder: empty, clock, runner })
    await assert.rejects(
      offline.build(micro),
      (error) => error instanceof Fault && error.code === 'unavailable' && /Could not resolve/.test(error.message),
    )
    await assert.rejects(store.build(parseImageName('windows')), (error) => error instanceof Fault && error.code === 'not_found')
  })

  test('an old version stays while it is in use and goes when it is not; remove takes the image away', async () => {
    const home = join(folder, 'kept')
    const held = new Set<string>()
    const keeper = createImageStore({ folder: home, cacheFolder, clock, inUse: async (version) => held.has(version) })
    const old = join(home, 'micro', '0'.repeat(32))
    await mkdir(old, { recursive: true })
    await writeFile(join(old, 'root.qcow2'), 'held')
    held.add(old)
    await keeper.build(micro)
    assert.ok((await readdir(join(home, 'micro'))).includes('0'.repeat(32)))
    held.clear()
    await keeper.build(micro)
    assert.deepEqual((await readdir(join(home, 'micro'))).length, 2)
    await keeper.remove(micro)
    assert.equal(await keeper.get(micro), null)
    assert.deepEqual(await readdir(join(home, 'micro')), [])
  })
})

const sha256 = async (path: string): Promise<string> =>
  createHash('sha256')
    .update(await readFile(path))
    .digest('hex')

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const { port } = server.address() as AddressInfo // it listens on TCP
  await new Promise((done) => server.close(done))
  return port
}

async function banner(port: number): Promise<string> {
  const { connect } = await import('node:net')
  const socket = connect(port, '127.0.0.1')
  socket.setTimeout(20_000, () => socket.destroy(new Error('no banner in 20 s')))
  for await (const part of socket) return String(part)
  throw new Error('no banner')
}

async function eventually(check: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 150; tries += 1) {
    if (await check()) return
    await new Promise((done) => setTimeout(done, 100))
  }
  assert.fail('not true after 15 s')
}

/**
 * `typevisor install` on a machine of its own: Debian with systemd, booted in QEMU. What is tried there is `install-world.mjs`, its only job.
 * Its guests are QEMU in QEMU, without hardware virtualization: that they run is enough.
 */
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { globSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { microImage } from '@typevisor/driver-qemu/testing'
import { untilLine } from './machine-console.ts'

const run = promisify(execFile)
const ROOT = join(import.meta.dirname, '../../../..')
const PACKAGES = 'systemd-sysv,dbus,udev,linux-image-cloud-amd64,qemu-system-x86,qemu-utils,ca-certificates'
/** What only building and checking need. */
const NOT_TO_RUN =
  /^(typescript|@typescript|@?oxlint|@?oxfmt|playwright-core|vite|@?rolldown|lightningcss.*|@mantine|react.*|@tanstack|@xterm|@novnc|@types|fast-check)$/

const UNIT = `[Unit]
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/opt/typevisor/node_modules/.bin/node /opt/typevisor/apps/cli/src/install/install-world.mjs
ExecStopPost=/usr/bin/systemctl --no-block poweroff
# The first line belongs to a getty, which hangs up whoever is there.
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
`

/** The Debian mirror that this machine is set up with. */
function mirror(): string {
  const uri = globSync(['/etc/apt/sources.list', '/etc/apt/sources.list.d/*.{list,sources}'])
    .flatMap((path) => [...readFileSync(path, 'utf8').matchAll(/^(?:URIs:\s*|deb\s+(?:\[[^\]]*\]\s+)?)(\S+)/gm)])
    .map((match) => match[1] as string) // the pattern has one group
    .find((found) => /debian\/?$/.test(found) && !found.includes('security'))
  assert.ok(uri, 'this machine names a Debian mirror')
  return uri
}

async function makeDisk(folder: string): Promise<{ disk: string; kernel: string; initrd: string }> {
  const machine = join(folder, 'machine')
  await run('debootstrap', ['--variant=minbase', `--include=${PACKAGES}`, 'bookworm', machine, mirror()], {
    maxBuffer: 64 * 1024 * 1024,
  })
  const tree = join(machine, 'opt/typevisor')
  await mkdir(join(tree, 'node_modules'), { recursive: true })
  for (const name of ['package.json', 'typevisor']) await cp(join(ROOT, name), join(tree, name))
  const skips = (path: string): boolean => /\/(node_modules|dist)$/.test(path)
  for (const name of ['apps', 'packages'])
    await cp(join(ROOT, name), join(tree, name), { recursive: true, filter: (path) => !skips(path) })
  for (const name of await readdir(join(ROOT, 'node_modules'))) {
    if (NOT_TO_RUN.test(name)) continue
    await cp(join(ROOT, 'node_modules', name), join(tree, 'node_modules', name), { recursive: true, verbatimSymlinks: true })
  }
  const image = await microImage()
  assert.ok(image.boot.kind === 'kernel')
  const version = dirname(image.boot.kernelPath)
  const images = join(machine, 'var/lib/typevisor/agent/images')
  await mkdir(images, { recursive: true })
  await cp(dirname(version), join(images, 'micro'), { recursive: true, verbatimSymlinks: true })
  const units = join(machine, 'etc/systemd/system')
  await writeFile(join(units, 'world.service'), UNIT)
  await mkdir(join(units, 'multi-user.target.wants'), { recursive: true })
  await writeFile(join(machine, 'etc/fstab'), '')
  await mkdir(join(units, 'default.target.wants'), { recursive: true })
  await symlink('../world.service', join(units, 'default.target.wants/world.service'))
  const boot = await readdir(join(machine, 'boot'))
  const [kernel, initrd] = await Promise.all(
    ['vmlinuz-', 'initrd.img-'].map(async (start) => {
      const name = boot.find((each) => each.startsWith(start))
      assert.ok(name, `${start} in /boot`)
      await cp(join(machine, 'boot', name), join(folder, start))
      return join(folder, start)
    }),
  )
  assert.ok(kernel && initrd)
  const disk = join(folder, 'disk.raw')
  await run('mke2fs', ['-q', '-t', 'ext4', '-d', machine, disk, '5G'], {
    env: { PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
  })
  await rm(machine, { recursive: true, force: true })
  return { disk, kernel, initrd }
}

interface Told {
  readonly error?: string
  readonly first: string[]
  readonly second: string[]
  readonly users: boolean[]
  readonly before: [string | null, string | null]
  readonly guestUser: boolean
  readonly group: string
  readonly stopped: string
  readonly upgrade: string[]
  readonly afterUpgrade: string[]
  readonly uninstalled: string[]
  readonly active: string[]
  readonly afterUninstall: string[]
  readonly dataKept: boolean
  readonly afterStop: unknown
  readonly afterStart: unknown
  readonly afterRestart: unknown
  readonly afterKill: unknown
  readonly afterServer: unknown
}

test(
  'services: guests and the volume server live over every stop of the agent, and over an upgrade',
  { skip: process.geteuid?.() === 0 ? false : 'making a machine wants root', timeout: 5_400_000 },
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'tv-install-'))
    try {
      const { disk, kernel, initrd } = await makeDisk(folder)
      const machine = spawn(
        'qemu-system-x86_64',
        [
          '-M',
          'q35',
          '-cpu',
          'max',
          '-smp',
          '2',
          '-m',
          '2560',
          '-display',
          'none',
          '-serial',
          `file:${join(folder, 'console.log')}`,
          '-serial',
          'stdio',
          '-no-reboot',
          '-nic',
          'none',
          '-monitor',
          'none',
        ]
          .concat([
            '-drive',
            `file=${disk},if=virtio,format=raw,cache=unsafe`,
            '-object',
            'rng-random,id=rng,filename=/dev/urandom',
          ])
          .concat(['-device', 'virtio-rng-pci,rng=rng', '-kernel', kernel, '-initrd', initrd])
          .concat(['-append', 'root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0']),
        { stdio: ['ignore', 'pipe', 'pipe'] },
      )
      try {
        const line = await untilLine(machine, /^told: /, (said) => t.diagnostic(said))
        const told = JSON.parse(line.slice('told: '.length)) as Told // as the program prints it
        assert.equal(told.error, undefined)
        assert.ok(
          told.first.every((each) => each.startsWith('done: ') || /folder/.test(each)),
          told.first.join('\n'),
        )
        assert.ok(
          told.second.every((each) => each.startsWith('is so already: ')),
          told.second.join('\n'),
        )
        assert.deepEqual(told.users, [true, true])
        const { before } = told
        assert.ok(before[0] !== null && before[1] !== null, JSON.stringify(before))
        assert.equal(told.guestUser, true)
        assert.match(told.group, /typevisor-agent\.service$/m)
        assert.equal(told.stopped, 'inactive')
        for (const moment of ['afterStop', 'afterStart', 'afterRestart', 'afterKill', 'afterServer'] as const)
          assert.deepEqual(told[moment], before, moment)
        assert.ok(
          told.upgrade.some((each) => each.startsWith('done: systemctl enable --now typevisor-agent')),
          told.upgrade.join('\n'),
        )
        assert.deepEqual(told.afterUpgrade, [before[0]])
        assert.deepEqual(told.uninstalled, [])
        assert.deepEqual(told.active, ['inactive', 'inactive'])
        assert.deepEqual(told.afterUninstall, [before[0]])
        assert.equal(told.dataKept, true)
      } finally {
        machine.kill('SIGKILL')
      }
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  },
)

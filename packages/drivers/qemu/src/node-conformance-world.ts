/** What the conformance suite needs of a real QEMU: folders of its own, and guests of the starter image with qcow2 overlays for disks. */
import { execFile } from 'node:child_process'
import { copyFile, mkdir, mkdtemp, open, readFile, rm, statfs, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Fault, millis, type Clock, type IdSource, type Log } from '@typevisor/base'
import type { DomainId, VolumeId } from '@typevisor/model'
import type { Image } from '@typevisor/image'
import type { DomainDriver, DriverWorld } from '@typevisor/toolstack'
import { createQemuDriver } from './driver.ts'
import type { QemuHost } from './ports.ts'

const run = promisify(execFile)

const words = (text: string): string[] => text.split(/\s+/).filter((word) => word !== '')

async function inGuest(driver: DomainDriver, id: DomainId, script: string): Promise<string> {
  const { stdout } = await driver.exec(id, { argv: ['/bin/sh', '-c', script], timeoutMs: 20_000 })
  return new TextDecoder().decode(stdout)
}
/** A shell's words: `vars` is where the firmware's variables are. */
const EFIVARS = 'vars=/run/efivars; modprobe efivarfs 2>/dev/null; mkdir -p $vars; mount -t efivarfs none $vars 2>/dev/null'
const TEST_VARIABLE = 'Typevisor.'
const TEST_VENDOR = '0e9b2f6a-7c11-4d5e-9a53-1f6d3c8b2a40'
/** A shell's words for the kernel's name of the disk with this serial. */
const diskNamed = (serial: string): string =>
  `for each in /sys/block/vd*; do [ "$(cat $each/serial)" = ${serial} ] && basename $each; done`

export interface QemuWorldOptions {
  readonly image: Image
  readonly host: QemuHost
  readonly clock: Clock
  readonly ids: IdSource
  readonly log: Log
}

export async function qemuConformanceWorld({ image, host, clock, ids, log }: QemuWorldOptions): Promise<DriverWorld> {
  const folder = await mkdtemp(join(tmpdir(), 'typevisor-check-'))
  await mkdir(join(folder, 'disks'))
  const small = process.getuid?.() === 0 ? join(folder, 'small') : null
  if (small) {
    await mkdir(small)
    await run('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', small])
  }
  const guestIn =
    (disks: string): DriverWorld['guest'] =>
    async (id) => {
      const volume = `${id}.root` as VolumeId
      const path = join(disks, `${id}.qcow2`)
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', image.rootDisk.path, '-F', image.rootDisk.format, path])
      return {
        boot: image.boot,
        volumes: { [volume]: { kind: 'file', path, format: 'qcow2' } },
        disks: [{ name: 'root', volume, readOnly: false }],
      }
    }
  return {
    open: async () =>
      createQemuDriver({
        dataDir: join(folder, 'data'),
        runDir: join(folder, 'run'),
        host,
        clock,
        ids,
        log,
        limits: { roomInterval: millis(100) },
      }),
    guest: guestIn(join(folder, 'disks')),
    fullDisk: small
      ? {
          guest: guestIn(small),
          fill: async (driver, id) => {
            const { bavail, bsize } = await statfs(small)
            await writeFile(join(small, 'filler'), new Uint8Array(bavail * bsize))
            const write = 'dd if=/dev/urandom of=/root/$(date +%s%N) bs=64k count=32 conv=fsync >/dev/null 2>&1 &'
            await driver.exec(id, { argv: ['/bin/sh', '-c', write], timeoutMs: 20_000 })
          },
          makeRoom: () => rm(join(small, 'filler')),
        }
      : { cannot: 'a file system of its own needs root' },
    savePath: (id) => join(folder, `${id}.save`),
    damage: async (path) => {
      const file = await open(path, 'r+')
      try {
        const { size } = await file.stat()
        await file.write(new TextEncoder().encode('damage'), 0, 6, size >> 1)
      } finally {
        await file.close()
      }
    },
    keepDisks: async (id) => {
      const path = join(folder, 'disks', `${id}.qcow2`)
      await copyFile(path, `${path}.kept`)
      return () => copyFile(`${path}.kept`, path)
    },
    untilBooted: async (driver, id) => {
      const end = Date.now() + 60_000
      while (true) {
        try {
          await driver.exec(id, { argv: ['/bin/true'], timeoutMs: 5000 })
          if ((await driver.addresses(id)).some(({ device, addresses }) => device !== 'lo' && addresses.length > 0)) return
        } catch (error) {
          if (Date.now() > end) throw error
        }
        await sleep(100)
      }
    },
    killProcess: async (id) => {
      const pid = Number(await readFile(join(folder, 'run', id, 'qemu.pid'), 'utf8'))
      process.kill(pid, 'SIGKILL')
      await host.processes.waitExit((await host.processes.identity(pid)) ?? { pid, startTimeTicks: -1, bootId: '' }, {
        signal: AbortSignal.timeout(10_000),
      })
    },
    guestPowersOff: async (driver, id) => {
      const stream = await driver.openConsole(id)
      await stream.write(new TextEncoder().encode('poweroff\r'))
      stream.close()
    },
    // The guest's own shell counts, in a file in the guest's memory.
    counter: ['/bin/sh', '-c', 'n=$(cat /run/count 2>/dev/null || echo 0); echo $((n + 1)) | tee /run/count'],
    echo: ['/bin/echo'],
    volume: async (id, name, sizeBytes) => {
      const volume = `${id}.${name}` as VolumeId
      const path = join(folder, 'disks', `${volume}.raw`)
      await writeFile(path, '')
      await truncate(path, sizeBytes)
      return { volume, source: { kind: 'file', path, format: 'raw' } }
    },
    eyes: {
      // Disks have their device's name as serial.
      disks: async (driver, id) =>
        words(await inGuest(driver, id, 'for each in /sys/block/vd*/serial; do cat $each; echo; done')),
      macs: async (driver, id) => words(await inGuest(driver, id, 'cat /sys/class/net/*/address')),
      writes: async (driver, id, disk) => {
        const script = `d=$(${diskNamed(disk)}); head -c 1000000 /dev/urandom > /tmp/sent; dd if=/tmp/sent of=/dev/$d bs=64k conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches; head -c 1000000 /dev/$d | cmp - /tmp/sent && echo same`
        const said = (await inGuest(driver, id, script)).trim()
        if (said !== 'same') throw new Fault('failed', `disk ${disk}: what was written is not what is read`)
      },
      sizeBytes: async (driver, id, disk) => 512 * Number(await inGuest(driver, id, `cat /sys/block/$(${diskNamed(disk)})/size`)),
      medium: async (driver, id) => {
        const script =
          'modprobe virtio_scsi; modprobe sr_mod; dd if=/dev/sr0 of=/dev/null bs=2048 count=1 2>/dev/null && cat /sys/block/sr0/size'
        const size = (await inGuest(driver, id, script)).trim()
        return size === '' ? null : size
      },
      beginning: async (driver, id) => {
        const script = `${EFIVARS}; [ -d /sys/firmware/efi ] || echo bios; tail -c 1 $vars/SecureBoot-* | od -An -tu1; [ -c /dev/tpm0 ] && echo tpm`
        const said = words(await inGuest(driver, id, script))
        const firmware = said.includes('bios') ? 'bios' : said.includes('1') ? 'uefi-secure' : 'uefi'
        return { firmware, tpm: said.includes('tpm') }
      },
      writeNvram: async (driver, id, variable) => {
        // Attributes first: it is kept, and seen by firmware and system.
        const script = `${EFIVARS}; printf '\\007\\000\\000\\000x' > $vars/${TEST_VARIABLE}${variable}-${TEST_VENDOR} && echo kept`
        const said = (await inGuest(driver, id, script)).trim()
        if (said !== 'kept') throw new Fault('failed', `NVRAM: ${variable} was not kept`)
      },
      nvram: async (driver, id) => {
        const said = words(await inGuest(driver, id, `${EFIVARS}; ls $vars | grep '^${TEST_VARIABLE}'`))
        return said.map((name) => name.slice(TEST_VARIABLE.length, -TEST_VENDOR.length - 1)).sort()
      },
    },
    processors: ['/bin/sh', '-c', 'nproc'],
    memory: ['/bin/sh', '-c', "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"],
    pause: (ms) => sleep(ms),
    close: async () => {
      if (small) await run('umount', [small])
      await rm(folder, { recursive: true })
    },
  }
}

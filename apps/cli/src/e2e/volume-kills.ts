/**
 * Real kills: a QEMU guest works with fio and a file system on a volume of a real `typevisor nbd serve`, which is killed again and again.
 *
 *   guest 1   mkfs; fio (random writes, read back and compared by checksum) and a log of files that it has fsynced
 *             server: SIGKILL, started again, n times          guest: a pause, no error
 *             QEMU: SIGKILL                                    the guest's power cut
 *   guest 2   mounts (journal replay): each file of the log is whole; fsck; the same work again
 *             server: SIGKILL, started again, n times
 *             told to stop: last verification, fsck clean, no error in the kernel's log
 *
 * Then `volume check` says that all is sound.
 */
import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Rng } from '@typevisor/base'
import { buildToolGuest, type ToolGuest } from '@typevisor/image/testing'
import { seededRng } from '@typevisor/sim'
import { run, typevisor, type Child } from './child.ts'
import { temporaryFolder } from './harness.ts'

export type FileSystem = 'ext4' | 'xfs'

/** Words of the kernel for a disk or a file system that failed. */
const COMPLAINTS = 'i/o error|ext4-fs (error|warning)|xfs.*(error|corrupt|shut)|journal.*abort|remounting'

const SCRIPT = `
for word in $(cat /proc/cmdline); do case $word in fs=*) fs=\${word#fs=} ;; first=*) first=\${word#first=} ;; esac; done
say() { echo "guest: $*" >/dev/console; }
fsck() { if [ $fs = ext4 ]; then /bin/e2fsck -f -n /dev/vda; else xfs_repair -n /dev/vda; fi >/tmp/fsck 2>&1; code=$?
  say "fsck ended with $code"; [ $code = 0 ] || cat /tmp/fsck >/dev/console; }
# Whoever writes a line to the second serial port ends the work.
( read -r line </dev/ttyS1; touch /run/stop ) &
if [ $first = yes ]; then
  if [ $fs = ext4 ]; then /bin/mke2fs -q -t ext4 /dev/vda; else mkfs.xfs -q /dev/vda; fi || say "mkfs failed"
fi
mount -t $fs -o discard /dev/vda /mnt || say "mount failed"
mkdir -p /mnt/log
if [ $first = no ]; then
  ( cd /mnt/log; for file in *; do say "found $file $(md5sum <$file | cut -c1-32)"; done )
  umount /mnt; fsck; mount -t $fs -o discard /dev/vda /mnt || say "mount failed"
  rm -rf /mnt/log /mnt/fio; mkdir /mnt/log
fi
say working
log() {
  n=0
  until [ -e /run/stop ]; do
    n=$((n + 1))
    dd if=/dev/urandom of=/mnt/log/$n bs=3000 count=$((n % 20 + 1)) conv=fsync 2>/dev/null || say "write failed"
    say "synced $n $(md5sum </mnt/log/$n | cut -c1-32)"
    usleep 100000
  done
}
log &
round=0
until [ -e /run/stop ]; do
  round=$((round + 1))
  fio --name=work --filename=/mnt/fio --size=16m --bsrange=4k-64k --rw=randwrite --ioengine=libaio --iodepth=8 --direct=1 \\
    --fsync=16 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --do_verify=1 --randseed=$round >/tmp/fio 2>&1
  code=$?
  say "fio round $round ended with $code"; [ $code = 0 ] || cat /tmp/fio >/dev/console
  if [ $((round % 3)) = 0 ]; then rm /mnt/fio; fstrim /mnt; fi
done
wait
umount /mnt; fsck
dmesg | grep -iE '${COMPLAINTS}' | while read -r line; do say "kernel: $line"; done
say stopped
poweroff -f
`

/** Kernel and initramfs with fio and the tools of both file systems. */
export const killGuest = (folder: string): Promise<ToolGuest> =>
  buildToolGuest({
    folder,
    packages: ['fio', 'e2fsprogs', 'xfsprogs'],
    programs: ['usr/bin/fio', 'sbin/mke2fs', 'sbin/e2fsck', 'sbin/mkfs.xfs', 'sbin/xfs_repair'],
    modules: ['virtio_pci', 'virtio_blk', 'xfs'],
    script: SCRIPT,
  })

/** A machine may be busy with other things. */
const ROUND_MS = 900_000

interface Bench {
  readonly dir: string
  readonly fileSystem: FileSystem
  readonly guest: ToolGuest
  readonly rng: Rng
  server: Child
}

/** Half of the kills are before the guest's power cut, half behind it. */
export async function killsUnderFio(
  guest: ToolGuest,
  options: { fileSystem: FileSystem; seed: number; killCount: number },
): Promise<void> {
  const { fileSystem, seed, killCount } = options
  const dir = await temporaryFolder()
  const at = ['--dir', dir]
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rm(dir, { recursive: true, force: true }))
  const made = await run(['volume', 'create', 'disk', '--size', '384MiB', ...at])
  assert.equal(made.code, 0, made.said)
  const bench: Bench = { dir, fileSystem, guest, rng: seededRng(seed), server: await serve(dir) }
  stack.defer(() => bench.server.kill('SIGKILL'))

  const beforeCut = Math.ceil(killCount / 2)
  const synced = await lifeUntilPowerCut(bench, beforeCut)
  await lifeToTheEnd(bench, killCount - beforeCut, synced)

  await bench.server.kill('SIGTERM')
  const { code, said } = await run(['volume', 'check', ...at])
  assert.equal(code, 0, said)
}

/** @returns what the guest had fsynced: name to checksum. */
async function lifeUntilPowerCut(bench: Bench, killCount: number): Promise<Map<string, string>> {
  await using qemu = boot(bench, true)
  await qemu.says(/guest: working/, ROUND_MS)
  await killServer(bench, qemu, killCount)
  await nextRound(qemu)
  await sleep(bench.rng.below(1500))
  await qemu.kill('SIGKILL')
  return filesOf(qemu.said(), 'synced')
}

async function lifeToTheEnd(bench: Bench, killCount: number, synced: Map<string, string>): Promise<void> {
  await using qemu = boot(bench, false)
  await qemu.says(/guest: working/, ROUND_MS)
  const found = filesOf(qemu.said(), 'found')
  assert.ok(synced.size > 0, 'the guest had fsynced something')
  for (const [name, sum] of synced) assert.equal(found.get(name), sum, `file ${name} had been fsynced before the power cut`)
  await killServer(bench, qemu, killCount)
  connect(join(bench.dir, 'tell.sock')).end('stop\n')
  await qemu.says(/guest: stopped/, ROUND_MS)
  assertNoComplaint(qemu)
  assert.match(qemu.said(), /fio round \d+ ended with 0[^]*fsck ended with 0/)
}

/** Kills it at any moment, also while it is only beginning again, and waits until the guest has gone on. */
async function killServer(bench: Bench, qemu: Child, killCount: number): Promise<void> {
  const { rng } = bench
  for (let kill = 0; kill < killCount; kill += 1) {
    await sleep(rng.below(2500))
    await bench.server.kill('SIGKILL')
    bench.server = start(bench.dir)
    // Now and then it does not get far.
    if (rng.below(5) > 0) {
      await bench.server.says(/serving/)
      if (rng.below(3) === 0) await nextRound(qemu)
    }
    assertNoComplaint(qemu)
  }
  await bench.server.says(/serving/)
  await nextRound(qemu)
}

/** The guest has done a whole round of writing and comparing since the call. */
async function nextRound(qemu: Child): Promise<void> {
  const rounds = [...qemu.said().matchAll(/fio round (\d+) ended/g)].length
  await qemu.says(new RegExp(`fio round ${rounds + 2} ended`), ROUND_MS)
}

function assertNoComplaint(qemu: Child): void {
  const complaint = /guest: .*(?:failed|ended with [1-9]|kernel:).*|.*(?:Kernel panic|I\/O error|writeback error).*/.exec(
    qemu.said(),
  )
  assert.equal(complaint?.[0], undefined, qemu.said().slice(-4000))
}

const filesOf = (said: string, word: string): Map<string, string> =>
  new Map(
    [...said.matchAll(new RegExp(`guest: ${word} (\\d+) ([0-9a-f]{32})`, 'g'))].map(([, name = '', sum = '']) => [name, sum]),
  )

const start = (dir: string): Child => typevisor(['nbd', 'serve', '--dir', dir, '--socket', join(dir, 'nbd.sock')])
async function serve(dir: string): Promise<Child> {
  const server = start(dir)
  await server.says(/serving/)
  return server
}

function boot({ dir, guest, fileSystem }: Bench, isFirst: boolean): Child {
  const words = [
    ...['-M', 'pc-q35-7.2', '-accel', 'tcg', '-cpu', 'Nehalem-v1', '-m', '512', '-nodefaults', '-display', 'none', '-no-reboot'],
    ...[
      '-serial',
      'stdio',
      '-chardev',
      `socket,id=tell,server=on,wait=off,path=${join(dir, 'tell.sock')}`,
      '-serial',
      'chardev:tell',
    ],
    ...['-kernel', guest.kernelPath, '-initrd', guest.initrdPath],
    '-append',
    `console=ttyS0 quiet cryptomgr.notests no_timer_check panic=-1 fs=${fileSystem} first=${isFirst ? 'yes' : 'no'}`,
    '-blockdev',
    `nbd,node-name=disk,export=disk,reconnect-delay=300,discard=unmap,server.type=unix,server.path=${join(dir, 'nbd.sock')}`,
    ...['-device', 'virtio-blk-pci,drive=disk,discard=on'],
  ]
  return typevisor(words, {}, ['qemu-system-x86_64'])
}

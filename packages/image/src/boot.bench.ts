/**
 * From the start of QEMU to `typevisor: ready`, TCG, one vCPU, 256 MiB, with a seed. Budget: 2.5 s (median, idle two-core machine).
 *
 * Envelope (estimated from one guest's kernel log): QEMU and firmware 0.3 s; kernel to its first process 1.0 s (unpacked: the bzImage's decompressor would add 0.3 s); initramfs
 * with 6 modules 0.3 s; start scripts and cloud-init 0.5 s.
 *
 * `node packages/image/src/boot.bench.ts [RUNS]`
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { epochMillis } from '@typevisor/base'
import { parseImageName, parseVolumeId } from '@typevisor/model'
import { fileOf, nodeCommandRunner, nodeVolumeFiles, qcow2VolumeStore } from '@typevisor/storage'
import { createImageStore } from './node-image-store.ts'
import { buildSeed } from './seed.ts'
import { bootBareGuest } from './testing.ts'

const BUDGET_MS = 2500
const runCount = Number(process.argv[2] ?? 7)
const cacheFolder =
  process.env['TYPEVISOR_CACHE'] ?? (process.getuid?.() === 0 ? '/var/cache/typevisor' : join(homedir(), '.cache', 'typevisor'))
const folder = await mkdtemp(join(tmpdir(), 'typevisor-bench-'))
try {
  const image = await createImageStore({
    folder: join(folder, 'images'),
    cacheFolder,
    clock: { now: () => epochMillis(Date.now()) },
  }).build(parseImageName('micro'))
  const volumes = qcow2VolumeStore({
    files: await nodeVolumeFiles({ folder: join(folder, 'volumes') }),
    runner: nodeCommandRunner(),
  })
  const times: number[] = []
  for (let index = 0; index < runCount; index += 1) {
    const name = `01890000-0000-7000-8000-${String(index).padStart(12, '0')}`
    const disk = await volumes.clone(parseVolumeId(name), image.rootDisk, image.rootDisk.virtualBytes)
    const cloudInit = { hostname: 'bench', user: 'root', sshKeys: [], userData: null }
    const seed = await volumes.put(parseVolumeId(`${name}.seed`), buildSeed({ instanceId: name, cloudInit }))
    await using guest = await bootBareGuest({ image, diskPath: fileOf(disk).path, seedPath: fileOf(seed).path })
    times.push(Math.round(guest.readyMs))
  }
  times.sort((a, b) => a - b)
  const median = times[Math.floor(times.length / 2)] ?? Number.NaN
  process.stdout.write(
    `boot to ready: median ${median} ms, fastest ${times[0]} ms, slowest ${times.at(-1)} ms of ${runCount}; budget ${BUDGET_MS} ms\n`,
  )
  process.exitCode = median <= BUDGET_MS ? 0 : 1
} finally {
  await rm(folder, { recursive: true, force: true })
}

/**
 * KVM or TCG, found out by running a guest. The device node alone proves nothing: it may be a nested one that emulates half a processor
 * (seen: a `/dev/kvm` that runs real mode and has no SSE3).
 *
 * The probe is a ROM of 64 KiB whose reset vector prints one letter on the debug console and leaves by the debug-exit port, on the very
 * machine and processor model that domains get (`enforce=on`). It counts only when the letter comes, and comes within the limit.
 * The result is kept by boot, QEMU version and QEMU user, since who may open the device is the user's matter; a refusal to open it is not
 * kept at all: groups and modes change while a machine is up.
 */
import { Fault, millis, type IdSource } from '@typevisor/base'
import { CPU_MODEL, MACHINE } from './hardware.ts'
import type { ProcessUser, QemuHost } from './ports.ts'
import { parseObject, textOf } from './read-json.ts'

export interface Acceleration {
  readonly accelerator: 'tcg' | 'kvm'
  readonly reason: string
  /** e.g. `QEMU 7.2.22`. */
  readonly version: string
}

export interface AcceleratorProbe {
  readonly host: QemuHost
  readonly binary: string
  readonly folder: string
  readonly ids: IdSource
  readonly wanted: 'auto' | 'tcg'
  readonly user: ProcessUser | null
  readonly device?: string
}

const VERSION_LIMIT = millis(10_000)
const PROBE_LIMIT = millis(3000)
const ROM_SIZE = 65536
const RESET_VECTOR = 0xfff0
const LETTER = 'K'
/** QEMU: `Could not access KVM kernel module: Permission denied`. */
const REFUSED = /Permission denied|Operation not permitted/
/** mov al,'K'; out 0xe9,al; mov al,0; out 0xf4,al; hlt; jmp to hlt */
const PROGRAM = [0xb0, LETTER.charCodeAt(0), 0xe6, 0xe9, 0xb0, 0x00, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd]
/** isa-debug-exit ends QEMU with (value << 1) | 1. */
const EXIT_CODE = 1

export function createAcceleratorProbe(probe: AcceleratorProbe): () => Promise<Acceleration> {
  let result: Promise<Acceleration> | null = null
  return () => {
    result ??= findOut(probe)
    // A fault is not kept: QEMU may be installed meanwhile.
    result.catch(() => (result = null))
    return result
  }
}

/** `own`: the agent's, which never changes for one folder. */
const userText = (user: ProcessUser | null): string => (user === null ? 'own' : `${user.uid}:${user.gid}`)

async function findOut(probe: AcceleratorProbe): Promise<Acceleration> {
  const version = await qemuVersion(probe)
  if (probe.wanted === 'tcg') return { accelerator: 'tcg', reason: 'asked for', version }
  const device = probe.device ?? '/dev/kvm'
  if ((await probe.host.files.size(device)) === null) return { accelerator: 'tcg', reason: `no ${device}`, version }
  const barred = probe.user ? await probe.host.files.whyUnreachable(device, probe.user, 'write') : null
  if (barred) return { accelerator: 'tcg', reason: barred, version }
  const cachePath = `${probe.folder}/accelerator.json`
  const key = `${await probe.host.processes.bootId()} ${version} ${CPU_MODEL} ${userText(probe.user)}`
  const cached = await readCache(probe.host, cachePath, key, version)
  if (cached) return cached
  const found = { ...(await runProbe(probe)), version }
  if (REFUSED.test(found.reason)) return found
  await probe.host.files.replace(cachePath, new TextEncoder().encode(`${JSON.stringify({ key, ...found })}\n`), { sync: true })
  return found
}

async function qemuVersion({ host, binary }: AcceleratorProbe): Promise<string> {
  const { exitCode, stdout, stderr } = await host.processes.run(binary, ['--version'], { limit: VERSION_LIMIT })
  const match = /version (\d+\.\d+(?:\.\d+)?)/.exec(stdout)
  if (exitCode !== 0 || !match)
    throw new Fault('failed', `${binary} --version: ${stderr.slice(0, 500) || stdout.slice(0, 500) || 'no output'}`)
  return `QEMU ${match[1]}`
}

async function readCache(host: QemuHost, path: string, key: string, version: string): Promise<Acceleration | null> {
  const content = await host.files.read(path, 0, 65536).catch(() => null)
  const cached = content ? parseObject(new TextDecoder().decode(content)) : null
  const accelerator = cached?.['accelerator']
  if (cached?.['key'] !== key || (accelerator !== 'kvm' && accelerator !== 'tcg')) return null
  return { accelerator, reason: textOf(cached['reason']) ?? '', version }
}

async function runProbe({
  host,
  binary,
  folder,
  ids,
}: AcceleratorProbe): Promise<{ accelerator: 'tcg' | 'kvm'; reason: string }> {
  await host.files.ensureFolder(folder, { user: null })
  const rom = `${folder}/probe-${ids.next()}.rom`
  try {
    await host.files.replace(rom, probeRom(), { sync: true })
    const { exitCode, stdout, stderr } = await host.processes.run(binary, probeArguments('kvm', rom), { limit: PROBE_LIMIT })
    if (exitCode === EXIT_CODE && stdout === LETTER) return { accelerator: 'kvm', reason: 'a probe guest ran on /dev/kvm' }
    const words = stderr.trim().split('\n').slice(-2).join('; ').slice(0, 300)
    const how = exitCode === null ? `gave no answer in ${PROBE_LIMIT} ms` : `failed: ${words || `exit code ${exitCode}`}`
    return { accelerator: 'tcg', reason: `probe guest on /dev/kvm ${how}` }
  } finally {
    await host.files.remove(rom)
  }
}

export function probeRom(): Uint8Array {
  const rom = new Uint8Array(ROM_SIZE).fill(0xf4)
  rom.set(PROGRAM, RESET_VECTOR)
  return rom
}

export const probeArguments = (accelerator: 'tcg' | 'kvm', rom: string): string[] =>
  [
    [
      '-nodefaults',
      '-no-user-config',
      '-display',
      'none',
      '-machine',
      MACHINE,
      '-accel',
      accelerator,
      '-cpu',
      `${CPU_MODEL},enforce=on`,
    ],
    ['-m', 'size=16384k', '-bios', rom, '-chardev', 'stdio,id=out,signal=off', '-device', 'isa-debugcon,chardev=out,iobase=0xe9'],
    ['-device', 'isa-debug-exit,iobase=0xf4,iosize=1'],
  ].flat()

/**
 * The smallest guest of another architecture, for tests: Debian's kernel and a static busybox as its whole userspace, fetched from the machine's
 * own mirror. On its console it says `up: <machine>`, then `got: <line>` for each line that it is sent; `off` powers it off.
 */
import { access, mkdir, rename, writeFile } from 'node:fs/promises'
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Fault } from '@typevisor/base'
import { nodeCommandRunner } from '@typevisor/storage'
import { writeCpio } from './cpio.ts'
import { fetchPackages } from './node-debian.ts'
import { TreeBuilder } from './tree.ts'

export type ForeignArchitecture = 'aarch64' | 'riscv64'

/** The first release of Debian that has both. */
const SUITE = 'trixie'
const SOURCES: Readonly<Record<ForeignArchitecture, { readonly architecture: string; readonly kernel: string }>> = {
  aarch64: { architecture: 'arm64', kernel: 'linux-image-cloud-arm64' },
  riscv64: { architecture: 'riscv64', kernel: 'linux-image-riscv64' },
}

const INIT = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
exec < /dev/console > /dev/console 2>&1
/bin/busybox stty -echo
echo "up: $(/bin/busybox uname -m) $([ -d /sys/firmware/efi ] && echo uefi) $(/bin/busybox dmesg | /bin/busybox grep -o 'TPMEventLog=')"
while read -r line; do
  [ "$line" = off ] && /bin/busybox poweroff -f
  echo "got: $line"
done
`

/** @throws Fault `unavailable` without a mirror. */
export async function foreignGuest(
  of: ForeignArchitecture,
  cacheFolder: string,
): Promise<{ readonly kernelPath: string; readonly initrdPath: string }> {
  const { architecture, kernel } = SOURCES[of]
  const runner = nodeCommandRunner()
  const { folders } = await fetchPackages([kernel, 'busybox-static'], {
    runner,
    cacheFolder,
    foreign: { architecture, suite: SUITE },
  })
  const found = (folder: string, name: RegExp): string | null => {
    const at = join(folder, 'boot')
    const file = namesIn(at).find((each) => name.test(each))
    return file === undefined ? null : join(at, file)
  }
  const kernelPath = folders.map((folder) => found(folder, /^vmlinu[xz]-/)).find((path) => path !== null)
  const programs = folders.flatMap((folder) => ['bin/busybox', 'usr/bin/busybox'].map((path) => join(folder, path)))
  const busybox = (await Promise.all(programs.map(async (path) => ((await isThere(path)) ? path : null)))).find(
    (path) => path !== null,
  )
  if (!kernelPath || !busybox) throw new Fault('failed', `guest of ${of}: no kernel or no busybox among ${folders.join(', ')}`)
  const tree = new TreeBuilder().folder('dev').folder('proc').folder('sys')
  tree.add('dev/console', { kind: 'character-device', mode: 0o600, major: 5, minor: 1 })
  tree.file('bin/busybox', readFileSync(busybox), 0o755).file('init', INIT, 0o755)
  const folder = join(cacheFolder, 'foreign')
  await mkdir(folder, { recursive: true })
  const initrdPath = join(folder, `${of}.cpio`)
  const fresh = `${initrdPath}.${process.pid}`
  await writeFile(fresh, writeCpio(tree.build(), 0))
  await rename(fresh, initrdPath)
  return { kernelPath, initrdPath }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}
const isThere = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  )

/**
 * A TPM 2.0 for a guest: one swtpm each, a process of its own life as its QEMU is, that it ends with.
 *
 *   record `starting` --> spawn swtpm --> its pid file, written when it listens --> QEMU connects --> record with its identity
 *   ends by itself when QEMU lets go of it; `sweep`, each end and each adoption of a domain that is gone make sure
 *
 * Its state is in <data folder>/tpm/, handed over as an open folder: the user that it runs as need not reach the folders above. It is written
 * through at each change. Saves and moves carry it in QEMU's stream.
 * Failure paths: one that is killed under its guest leaves the guest with a TPM that does not answer, until the next start.
 */
import { Fault, millis } from '@typevisor/base'
import type { DriverDomain } from '@typevisor/toolstack'
import { findChild } from './find-child.ts'
import type { DomainPaths } from './layout.ts'
import type { LaunchContext } from './launch.ts'
import type { ProcessIdentity, QemuHost } from './ports.ts'
import { findRecord } from './record.ts'

export const TPM_BINARY = 'swtpm'
export const NO_TPM = 'this host has no swtpm: apt-get install swtpm'

const POLL = millis(5)

/** Also what finds it again. */
const pidArguments = ({ tpmPid }: Pick<DomainPaths, 'tpmPid'>): [string, string] => ['--pid', `file=${tpmPid}`]

export async function startTpm(
  { host, clock, user, startLimit }: LaunchContext,
  domain: DriverDomain,
  paths: DomainPaths,
  signal: AbortSignal,
): Promise<ProcessIdentity> {
  if (paths.runFolder.includes(','))
    throw new Fault('invalid', `start ${domain.name}: tpm: swtpm takes no comma in a path, got ${paths.runFolder}`)
  await host.files.ensureFolder(paths.tpmFolder, { user })
  const folder = await host.files.openDescriptor(paths.tpmFolder, 'read')
  let process: ProcessIdentity
  try {
    process = await host.processes.spawnDetached({
      command: TPM_BINARY,
      argv: [
        ...['socket', '--tpm2', '--terminate', '--tpmstate', 'dir=/proc/self/fd/3,mode=0600'],
        ...['--ctrl', `type=unixio,path=${paths.tpm},mode=0600`, ...pidArguments(paths)],
      ],
      environment: {},
      stderrPath: paths.tpmLog,
      user,
      inherit: [folder.fd],
    })
  } finally {
    await folder.close()
  }
  const start = clock.monotonic()
  while (((await host.files.size(paths.tpmPid)) ?? 0) === 0) {
    signal.throwIfAborted()
    if ((await host.processes.identity(process.pid))?.startTimeTicks !== process.startTimeTicks) {
      const words = await host.files.read(paths.tpmLog, 0, 4096)
      const said = new TextDecoder().decode(words ?? new Uint8Array(0)).trim()
      throw new Fault('failed', `start ${domain.name}: tpm: swtpm ended at once: ${said || 'without a word'}`)
    }
    if (clock.monotonic() - start > startLimit)
      throw new Fault('timeout', `start ${domain.name}: tpm: swtpm does not listen after ${startLimit} ms`)
    await clock.sleep(POLL, { signal })
  }
  return process
}

/** Those of this domain. */
export async function findTpms({ processes, files }: QemuHost, paths: DomainPaths): Promise<readonly ProcessIdentity[]> {
  if ((await files.size(paths.runFolder)) === null) return []
  const found = await findRecord(files, paths.record)
  const recorded = found.kind === 'record' ? found.record.tpm : null
  // Its record says that it has none.
  if (recorded === undefined) return []
  return findChild(processes, { recorded, arguments: pidArguments(paths), stderr: paths.tpmLog })
}

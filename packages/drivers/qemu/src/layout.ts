/**
 * Where a domain's things lie. What dies with the host's boot is in the run folder, what outlives the domain's runs in the data folder.
 *
 *   runDir/<id>/   domain.json  qemu.pid  qmp.sock  console.in  agent.sock  vnc.sock  stderr.log  migration.sock  nbd.sock  tpm.sock  tpm.pid  tpm.log
 *   dataDir/<id>/  console.log  console.json  forwards.json  nvram.fd  tpm/
 */
import { Fault } from '@typevisor/base'
import { isUuid, type DomainId } from '@typevisor/model'

/** `sun_path` of unix(7) holds 108 bytes with its final zero. */
const SOCKET_PATH_SIZE_MAX = 107

export interface DomainPaths {
  readonly runFolder: string
  readonly dataFolder: string
  readonly record: string
  readonly pid: string
  readonly qmp: string
  readonly consoleInput: string
  readonly agent: string
  readonly vnc: string
  readonly migration: string
  /** A second monitor, of a domain whose memory follows it. */
  readonly carrier: string
  /** Where disks go while the domain moves: to those of this one that is received, or of this one that is sent. */
  readonly nbd: string
  readonly stderr: string
  readonly consoleLog: string
  readonly consoleIndex: string
  readonly forwards: string
  /** Where the console's output would go, of a guest whose console is kept by QEMU's own log. */
  readonly consoleOutput: string
  readonly nvram: string
  readonly tpmFolder: string
  readonly tpm: string
  readonly tpmPid: string
  readonly tpmLog: string
}

/** @throws Fault `invalid` when the id is no UUID (it becomes a folder's name) or a socket's path would be too long. */
export function domainPaths(dirs: { readonly runDir: string; readonly dataDir: string }, id: DomainId): DomainPaths {
  if (!isUuid(id)) throw new Fault('invalid', `domain id: got ${JSON.stringify(String(id).slice(0, 60))}, want a UUID`)
  const runFolder = `${dirs.runDir}/${id}`
  const dataFolder = `${dirs.dataDir}/${id}`
  const paths: DomainPaths = {
    runFolder,
    dataFolder,
    record: `${runFolder}/domain.json`,
    pid: `${runFolder}/qemu.pid`,
    qmp: `${runFolder}/qmp.sock`,
    consoleInput: `${runFolder}/console.in`,
    agent: `${runFolder}/agent.sock`,
    vnc: `${runFolder}/vnc.sock`,
    migration: `${runFolder}/migration.sock`,
    carrier: `${runFolder}/carrier.sock`,
    nbd: `${runFolder}/nbd.sock`,
    stderr: `${runFolder}/stderr.log`,
    consoleLog: `${dataFolder}/console.log`,
    consoleIndex: `${dataFolder}/console.json`,
    forwards: `${dataFolder}/forwards.json`,
    consoleOutput: `${runFolder}/console.out`,
    nvram: `${dataFolder}/nvram.fd`,
    tpmFolder: `${dataFolder}/tpm`,
    tpm: `${runFolder}/tpm.sock`,
    tpmPid: `${runFolder}/tpm.pid`,
    tpmLog: `${runFolder}/tpm.log`,
  }
  const sizeBytes = new TextEncoder().encode(paths.migration).length
  if (sizeBytes > SOCKET_PATH_SIZE_MAX) {
    const got = new TextEncoder().encode(dirs.runDir).length
    throw new Fault(
      'invalid',
      `run folder ${dirs.runDir}: its path is ${got} bytes long, want at most ${got - (sizeBytes - SOCKET_PATH_SIZE_MAX)}`,
      {
        details: [{ path: 'runDir', want: `at most ${got - (sizeBytes - SOCKET_PATH_SIZE_MAX)} bytes`, got: `${got} bytes` }],
      },
    )
  }
  return paths
}

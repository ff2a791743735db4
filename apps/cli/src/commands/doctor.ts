/** Looks at the machine and the data directory, says what is wrong and what to do. Changes nothing. Exit code 1 when something is wrong. */
import { spawnSync } from 'node:child_process'
import { existsSync, statfsSync } from 'node:fs'
import { availableParallelism, freemem, totalmem } from 'node:os'
import { dirname } from 'node:path'
import { formatBytes, GIB, MIB, toFault } from '@typevisor/base'
import type { Command } from '../terminal.ts'
import { dataDirOf } from '../connect.ts'
import { clientOf } from '../verb.ts'

interface Finding {
  readonly what: string
  readonly ok: boolean
  readonly detail: string
}

const firstLine = (text: string): string => text.split('\n')[0]?.trim() ?? ''

function program(name: string, debianPackage: string): Finding {
  const { status, stdout } = spawnSync(name, ['--version'], { encoding: 'utf8' })
  return status === 0
    ? { what: name, ok: true, detail: firstLine(stdout) }
    : { what: name, ok: false, detail: `it does not run; apt-get install ${debianPackage}` }
}

function space(path: string): Finding {
  let folder = path
  while (!existsSync(folder) && folder !== '/') folder = dirname(folder)
  const { bavail, bsize } = statfsSync(folder)
  const free = bavail * bsize
  return {
    what: 'disk space',
    ok: free > 2 * GIB,
    detail: `${formatBytes(free)} free at ${folder}${free > 2 * GIB ? '' : '; images and guests want 2 GiB and more'}`,
  }
}

export const doctor: Command = {
  summary: 'Look at what this machine can do and what is wrong',
  usage: 'typevisor doctor [--json]',
  async run(_words, terminal, json) {
    const dataDir = dataDirOf(terminal.env)
    const findings: Finding[] = [
      { what: 'node', ok: Number(process.versions.node.split('.')[0]) >= 24, detail: process.version },
      { what: 'processors', ok: true, detail: String(availableParallelism()) },
      { what: 'memory', ok: freemem() > 512 * MIB, detail: `${formatBytes(freemem())} free of ${formatBytes(totalmem())}` },
      space(dataDir),
      program('qemu-system-x86_64', 'qemu-system-x86'),
      program('qemu-img', 'qemu-utils'),
      {
        what: '/dev/kvm',
        ok: true,
        detail: existsSync('/dev/kvm')
          ? 'there; used only when a probe guest really runs on it'
          : 'not there; guests are emulated',
      },
    ]
    try {
      const client = clientOf(terminal)
      const platform = await client.call('platform.get')
      findings.push({
        what: 'platform',
        ok: true,
        detail: `version ${platform.version}, process ${platform.pid}, ${platform.instanceCount} instances, database ${platform.database}`,
      })
      for (const host of (await client.call('host.list')).items) {
        findings.push({
          what: `host ${host.name}`,
          ok: host.connected,
          detail: host.connected
            ? `${host.version}, ${host.accelerator}: ${host.acceleratorReason}`
            : 'its agent is not connected',
        })
      }
      const stuck = (await client.call('operation.list', { query: { limit: 500 } })).items.filter(
        (operation) => operation.state === 'stuck',
      )
      for (const operation of stuck)
        findings.push({
          what: `operation ${operation.id}`,
          ok: false,
          detail: `${operation.name} is stuck: ${operation.fault?.message ?? ''}`,
        })
    } catch (error) {
      findings.push({ what: 'platform', ok: false, detail: toFault(error).message })
    }
    if (json) terminal.out(JSON.stringify(findings, null, 2))
    else for (const { what, ok, detail } of findings) terminal.out(`${ok ? 'ok   ' : 'WRONG'} ${what}: ${detail}`)
    return findings.every((finding) => finding.ok) ? 0 : 1
  },
}

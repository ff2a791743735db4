/**
 * Host ports that reach the guest, through QEMU's user networking. QEMU itself binds the port: with 0 the kernel chooses one in the
 * same call, so nobody can take it in between, and `info usernet` tells which. A chosen port is kept for the domain's next start.
 *
 * There is no QMP command for this in QEMU 7.2, so the human monitor is asked; its words are parsed here and nowhere else.
 * Only 127.0.0.1 is bound.
 */
import { Fault } from '@typevisor/base'
import type { PortForward } from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import { deviceIds } from './command-line.ts'
import type { DomainPaths } from './layout.ts'
import type { HostFiles } from './ports.ts'
import type { QmpClient } from './qmp.ts'
import { isObject, parseObject } from './read-json.ts'

/** `null`: done. Otherwise QEMU's words. */
export const hostForwardAdd = (link: string, forward: PortForward): string =>
  `hostfwd_add ${link} ${forward.protocol}:127.0.0.1:${portNumber(forward.hostPort, 0)}-:${portNumber(forward.guestPort, 1)}`

function portNumber(port: number, min: number): number {
  if (!Number.isInteger(port) || port < min || port > 65535) throw new Fault('invalid', `port: got ${port}, want ${min} to 65535`)
  return port
}

/**
 * Reads `info usernet`, of one link or of all:
 * `  TCP[HOST_FORWARD]  18       127.0.0.1 35261       10.0.2.15    80     0     0`
 */
export function parseUserNet(text: string, link?: string): PortForward[] {
  let isOfLink = link === undefined
  return text.split('\n').flatMap((line) => {
    // `Hub -1 (nic0-link):` opens each link's part.
    const header = /^Hub -?\d+ \((.*)\):/.exec(line)
    if (header && link !== undefined) isOfLink = header[1] === link
    if (!isOfLink) return []
    const match = /^\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)\s/.exec(line)
    if (!match) return []
    return [{ protocol: match[1] === 'TCP' ? 'tcp' : 'udp', hostPort: Number(match[2]), guestPort: Number(match[3]) } as const]
  })
}

export interface ForwardPort {
  readonly monitor: (command: string) => Promise<string>
}

/**
 * Sets up `wanted` on one NIC and answers what is bound. `remembered`: ports that were chosen at an earlier start, taken again when free.
 * @throws Fault `conflict` naming the port when a fixed one is taken.
 */
export async function setUpForwards(
  port: ForwardPort,
  link: string,
  wanted: readonly PortForward[],
  remembered: readonly PortForward[],
): Promise<PortForward[]> {
  const bound: PortForward[] = []
  for (const forward of wanted) {
    const isSame = (old: PortForward): boolean => old.protocol === forward.protocol && old.guestPort === forward.guestPort
    const isFree = (old: PortForward): boolean =>
      !bound.some((other) => other.protocol === old.protocol && other.hostPort === old.hostPort)
    const last = forward.hostPort === 0 ? remembered.find((old) => isSame(old) && isFree(old)) : undefined
    const attempts = last ? [last, forward] : [forward]
    let answer = ''
    for (const attempt of attempts) {
      answer = (await port.monitor(hostForwardAdd(link, attempt))).trim()
      if (answer === '') break
    }
    if (answer !== '') {
      const what = `${forward.protocol} port ${forward.hostPort} of 127.0.0.1`
      throw new Fault(
        'conflict',
        `forward ${what} to guest port ${forward.guestPort}: it is taken or not allowed (QEMU: ${answer})`,
      )
    }
    const known = new Set(bound.map((old) => `${old.protocol} ${old.hostPort}`))
    const now = parseUserNet(await port.monitor('info usernet'), link)
    const mine = now.find(
      (old) =>
        old.protocol === forward.protocol && old.guestPort === forward.guestPort && !known.has(`${old.protocol} ${old.hostPort}`),
    )
    if (!mine) throw new Fault('failed', `forward to guest port ${forward.guestPort}: QEMU does not list it`)
    bound.push(mine)
  }
  return bound
}

/** Sets up what the domain's cards forward, on the ports that they had before where the host may choose, and keeps which those are. */
export async function bringUpForwards(
  files: HostFiles,
  domain: DriverDomain,
  paths: DomainPaths,
  qmp: Pick<QmpClient, 'execute'>,
  /** Of this card alone. */
  only?: string,
): Promise<void> {
  const content = await files.read(paths.forwards, 0, 65536)
  const chosen: Record<string, unknown> = { ...(content ? parseObject(new TextDecoder().decode(content)) : null) }
  const monitor = async (line: string): Promise<string> =>
    String(await qmp.execute('human-monitor-command', { 'command-line': line }))
  let isNew = false
  for (const [device, deviceId] of deviceIds(domain.hardware)) {
    if (device.kind !== 'nic' || device.forwards.length === 0 || (only !== undefined && device.name !== only)) continue
    const list = chosen[device.name]
    const old = (Array.isArray(list) ? list : []).filter(
      (item) => isObject(item) && typeof item['hostPort'] === 'number',
    ) as PortForward[]
    const bound = await setUpForwards({ monitor }, `${deviceId}-link`, device.forwards, old)
    isNew ||= JSON.stringify(bound) !== JSON.stringify(list)
    chosen[device.name] = bound
  }
  if (isNew) await files.replace(paths.forwards, new TextEncoder().encode(`${JSON.stringify(chosen)}\n`), { sync: true })
}

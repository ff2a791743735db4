/** Ports of the host that reach a guest, as people type them, and what is sent of them. */
import type { PortForward } from '@typevisor/model'

export interface ForwardDraft {
  readonly protocol: 'tcp' | 'udp'
  /** Empty: the host chooses. */
  readonly hostPort: string
  readonly guestPort: string
}

export const NEW_FORWARD: ForwardDraft = { protocol: 'tcp', hostPort: '', guestPort: '22' }

/** `wrong` is told of what is no number at all. */
export function forwardsOf(
  drafts: readonly ForwardDraft[],
  wrong: (path: string, want: string, got: string) => void,
): PortForward[] {
  const port = (path: string, text: string, want: string): number => {
    if (!/^\d{1,9}$/.test(text.trim())) wrong(path, want, text)
    return Number(text)
  }
  return drafts.map(({ protocol, hostPort, guestPort }, index) => ({
    protocol,
    hostPort: hostPort.trim() === '' ? 0 : port(`forwards[${index}].hostPort`, hostPort, 'a port, or nothing: the host chooses'),
    guestPort: port(`forwards[${index}].guestPort`, guestPort, '1 to 65535'),
  }))
}

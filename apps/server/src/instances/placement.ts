/** Which host takes an instance: a pure choice over what the hosts say of themselves. A policy worth the name has its own package; this one is honest and small. */
import { Fault } from '@typevisor/base'

export interface HostOffer {
  readonly name: string
  readonly connected: boolean
  readonly memoryBytes: number
  /** Memory of the instances that are on it. */
  readonly committedBytes: number
  readonly images: readonly string[]
}
export interface PlacementWish {
  readonly image: string
  readonly memoryBytes: number
  /** Asked for by name; undefined: any. */
  readonly host: string | undefined
}

/** The connected host with the image and the most memory left. @throws Fault `not_found`, `unavailable` or `exhausted`, naming what was missing. */
export function chooseHost(offers: readonly HostOffer[], wish: PlacementWish): string {
  const asked = wish.host === undefined ? offers : offers.filter((offer) => offer.name === wish.host)
  if (wish.host !== undefined && asked.length === 0) {
    throw new Fault('not_found', `host ${wish.host}: there is none of this name`, {
      details: [{ path: 'host', want: 'a host', got: wish.host }],
    })
  }
  const connected = asked.filter((offer) => offer.connected)
  if (connected.length === 0)
    throw new Fault('unavailable', wish.host === undefined ? 'no host is connected' : `host ${wish.host} is not connected`)
  const holding = connected.filter((offer) => offer.images.includes(wish.image))
  if (holding.length === 0) {
    throw new Fault(
      'not_found',
      `image ${wish.image}: no connected host has it; \`typevisor image build ${wish.image}\` makes it if it has a recipe`,
      {
        details: [
          {
            path: 'image',
            want: [...new Set(connected.flatMap((offer) => offer.images))].join(', ') || 'an image',
            got: wish.image,
          },
        ],
      },
    )
  }
  const left = (offer: HostOffer) => offer.memoryBytes - offer.committedBytes
  const best = holding.toSorted((a, b) => left(b) - left(a) || a.name.localeCompare(b.name))[0] as HostOffer
  if (left(best) < wish.memoryBytes) {
    throw new Fault(
      'exhausted',
      `memory: ${wish.memoryBytes} bytes wanted, the emptiest host (${best.name}) has ${Math.max(0, left(best))} left`,
    )
  }
  return best.name
}

/** Whether an instance that is on its host already, but holds no memory, may hold it again. @throws Fault `exhausted`. */
export function assertRoom(offer: HostOffer, memoryBytes: number, what: string): void {
  const leftBytes = offer.memoryBytes - offer.committedBytes
  if (leftBytes >= memoryBytes) return
  throw new Fault(
    'exhausted',
    `${what}: memory: ${memoryBytes} bytes wanted, host ${offer.name} has ${Math.max(0, leftBytes)} left`,
  )
}

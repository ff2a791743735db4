/**
 * Which host takes an instance, and why none does: a pure choice over what the hosts say of themselves. A policy worth the name has its own
 * package; this one is honest and small. Each refusal names the field of the request that would have to be another.
 */
import { Fault, toFault, type FaultCode } from '@typevisor/base'
import { assertGuest, type GuestsOffered, type GuestWish } from '@typevisor/model'

export interface ImageOffer {
  readonly minimumMemoryBytes: number
  /** An instance's root disk is at least as large. */
  readonly minimumDiskBytes: number
}
export interface HostOffer {
  readonly name: string
  readonly connected: boolean
  readonly memoryBytes: number
  /** Memory of the instances that are on it. */
  readonly committedBytes: number
  readonly images: ReadonlyMap<string, ImageOffer>
  /** Who forwards a port of it: `tcp 8080` to the instance's name. */
  readonly takenPorts: ReadonlyMap<string, string>
  /** Undefined: its agent is of before, or away. */
  readonly guests?: GuestsOffered | undefined
}
export interface PlacementWish extends Omit<GuestWish, 'image'> {
  readonly image: string
  readonly memoryBytes: number
  readonly rootDiskBytes: number
  readonly forwards: readonly { readonly protocol: string; readonly hostPort: number }[]
  /** Asked for by name; undefined: any. */
  readonly host: string | undefined
}

export const portKey = ({ protocol, hostPort }: PlacementWish['forwards'][number]): string => `${protocol} ${hostPort}`

const refuse = (code: FaultCode, message: string, path: string, want: string, got: string): Fault =>
  new Fault(code, message, { details: [{ path, want, got }] })

/**
 * The connected host with the image, free ports and the most memory left.
 * @throws Fault `not_found`, `conflict`, `unavailable`, `invalid` or `exhausted`, naming what was missing.
 */
export function chooseHost(offers: readonly HostOffer[], wish: PlacementWish): string {
  const connected = connectedOf(offers, wish)
  const holding = connected.filter((offer) => offer.images.has(wish.image))
  if (holding.length === 0) throw lacksImage(offers, connected, wish)
  const fitting = holding.filter((offer) => tooSmall(offer, wish) === null)
  if (fitting.length === 0) throw tooSmall(holding[0] as HostOffer, wish) as Fault // holding is not empty, and none fits
  const able = fitting.filter((offer) => cannotBegin(offer, wish) === null)
  if (able.length === 0) throw cannotBegin(fitting[0] as HostOffer, wish) as Fault // as above
  const free = able.filter((offer) => portTaken(offer, wish) === null)
  if (free.length === 0) throw portTaken(able[0] as HostOffer, wish) as Fault // as above
  const best = free.toSorted((a, b) => leftBytes(b) - leftBytes(a) || a.name.localeCompare(b.name))[0] as HostOffer
  if (leftBytes(best) < wish.memoryBytes) {
    const largest = offers
      .filter(({ name }) => wish.host === undefined || name === wish.host)
      .toSorted((a, b) => b.memoryBytes - a.memoryBytes)[0]
    if (largest && largest.memoryBytes < wish.memoryBytes) throw beyondAnyHost(largest, wish)
    const left = Math.max(0, leftBytes(best))
    const where = wish.host === undefined ? `the emptiest host (${best.name})` : `host ${best.name}`
    throw refuse(
      'exhausted',
      `memory: ${wish.memoryBytes} bytes wanted, ${where} has ${left} left`,
      'body.memoryBytes',
      `at most ${left}`,
      String(wish.memoryBytes),
    )
  }
  return best.name
}

/** Nothing that is stopped or destroyed makes room for it: the wish is wrong, not the moment. */
function beyondAnyHost({ name, memoryBytes }: HostOffer, wish: PlacementWish): Fault {
  const who = wish.host === undefined ? `the largest host (${name})` : `host ${name}`
  return refuse(
    'invalid',
    `body.memoryBytes: got ${wish.memoryBytes}, ${who} has ${memoryBytes} in all`,
    'body.memoryBytes',
    `at most ${memoryBytes}`,
    String(wish.memoryBytes),
  )
}

const leftBytes = (offer: HostOffer): number => offer.memoryBytes - offer.committedBytes
const listed = (offers: readonly HostOffer[]): string => offers.map(({ name }) => name).join(', ')

function connectedOf(offers: readonly HostOffer[], { host }: PlacementWish): readonly HostOffer[] {
  const connected = offers.filter((offer) => offer.connected)
  if (host === undefined) {
    if (connected.length === 0) throw new Fault('unavailable', 'no host is connected')
    return connected
  }
  const asked = offers.find(({ name }) => name === host)
  if (!asked)
    throw refuse('not_found', `host ${host}: there is none of this name`, 'body.host', listed(connected) || 'a host', host)
  if (!asked.connected)
    throw refuse('conflict', `host ${host} is not connected`, 'body.host', listed(connected) || 'a connected host', host)
  return [asked]
}

/** Where it is, if it is anywhere, and how it comes to where it is wanted. */
function lacksImage(offers: readonly HostOffer[], connected: readonly HostOffer[], { image, host }: PlacementWish): Fault {
  const others = offers.filter((offer) => offer.images.has(image))
  const where = others.length === 0 ? '' : ` (${listed(others)} ${others.length === 1 ? 'has' : 'have'} it)`
  const what =
    host === undefined
      ? `no connected host has it${where}; \`typevisor image build ${image}\` makes it if it has a recipe`
      : `host ${host} does not have it${where}; \`typevisor image build ${image} --host ${host}\` makes it there if it has a recipe`
  const known = [...new Set(connected.flatMap((offer) => [...offer.images.keys()]))]
  return refuse('not_found', `image ${image}: ${what}`, 'body.image', known.join(', ') || 'an image', image)
}

function tooSmall({ images }: HostOffer, { image, memoryBytes, rootDiskBytes }: PlacementWish): Fault | null {
  const { minimumMemoryBytes, minimumDiskBytes } = images.get(image) ?? { minimumMemoryBytes: 0, minimumDiskBytes: 0 }
  const short = (path: string, want: number, got: number): Fault =>
    refuse('invalid', `${path}: got ${got}, image ${image} wants at least ${want}`, path, `at least ${want}`, String(got))
  if (memoryBytes < minimumMemoryBytes) return short('body.memoryBytes', minimumMemoryBytes, memoryBytes)
  if (rootDiskBytes < minimumDiskBytes) return short('body.rootDiskBytes', minimumDiskBytes, rootDiskBytes)
  return null
}

function cannotBegin({ name, guests }: HostOffer, wish: PlacementWish): Fault | null {
  try {
    assertGuest(wish, { what: `host ${name}`, boot: null, guests, prefix: 'body.' })
    return null
  } catch (error) {
    return toFault(error)
  }
}

function portTaken({ name, takenPorts }: HostOffer, { forwards }: PlacementWish): Fault | null {
  const at = forwards.findIndex((forward) => forward.hostPort !== 0 && takenPorts.has(portKey(forward)))
  const forward = forwards[at]
  if (!forward) return null
  const holder = takenPorts.get(portKey(forward)) ?? ''
  const path = `body.forwards[${at}].hostPort`
  const want = `a port that no instance on host ${name} forwards, or 0 for any`
  return refuse(
    'conflict',
    `${path}: ${forward.protocol} port ${forward.hostPort} of host ${name} is forwarded to ${holder}`,
    path,
    want,
    String(forward.hostPort),
  )
}

/** Whether an instance that is on its host already, but holds no memory, may hold it again. @throws Fault `exhausted`. */
export function assertRoom(
  offer: Pick<HostOffer, 'name' | 'memoryBytes' | 'committedBytes'>,
  memoryBytes: number,
  what: string,
): void {
  const left = offer.memoryBytes - offer.committedBytes
  if (left >= memoryBytes) return
  throw new Fault('exhausted', `${what}: memory: ${memoryBytes} bytes wanted, host ${offer.name} has ${Math.max(0, left)} left`)
}

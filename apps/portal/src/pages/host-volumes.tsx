/** How a host's volumes are, in a word and in sentences. */
import type { Reply } from '@typevisor/api'
import { formatBytes } from '@typevisor/base'
import { Icon } from '../ui/icons.tsx'
import { Badge } from '../ui/state-badge.tsx'

export type Host = Reply<'host.get'>
export type VolumeServer = NonNullable<Host['volumeServer']>

/** `QEMU 10.0.2` of driver `qemu` -> `10.0.2`. */
export const versionOf = ({ driver, version }: Host): string =>
  version.toLowerCase().startsWith(`${driver} `) ? version.slice(driver.length + 1) : version

export function VolumesBadge({ host: { volumeServer } }: { readonly host: Pick<Host, 'volumeServer'> }) {
  if (volumeServer === null) return <span className="dim">{'\u2013'}</span>
  const { state, detail, space } = volumeServer
  if (state === 'away') return <Badge tone="red" text="Away" hollow title={detail ?? undefined} />
  if (space === null) return <Badge tone="green" text="Serving" />
  const text = `${Math.round((100 * space.usedBytes) / space.capacityBytes)} % used`
  if (space.warningPercent === null) return <Badge tone="green" text={text} />
  return <Badge tone={space.warningPercent >= 95 ? 'red' : 'amber'} text={text} />
}

/** What somebody has to see to; nothing where all is well. */
export function VolumesNotice({ server }: { readonly server: VolumeServer }) {
  const { state, detail, space } = server
  if (state === 'away') {
    return (
      <div className="notice flat tone-red" role="alert" data-testid="volumes-away">
        <Icon name="alert" />
        <div>
          <strong>Its volume server is away</strong>
          {detail !== null && <p>{detail}</p>}
          <p className="next">
            It is started again and again. Guests stand still at their next read or write meanwhile, for at most five minutes.
          </p>
        </div>
      </div>
    )
  }
  if (space === null || space.warningPercent === null) return null
  const { warningPercent, usedBytes, availableBytes, limitedBy } = space
  return (
    <div
      className={`notice flat tone-${warningPercent >= 95 ? 'red' : 'amber'}`}
      role="alert"
      data-testid="space-warning"
      data-percent={warningPercent}
    >
      <Icon name="alert" />
      <div>
        <strong>
          {limitedBy === 'host' ? 'The file system of its volumes' : 'The store of its volumes'} is over {warningPercent} % full
        </strong>
        <p>
          {formatBytes(usedBytes)} are used, {formatBytes(availableBytes)} are still available.
        </p>
        <p className="next">
          Delete snapshots or instances{limitedBy === 'host' ? ', or make room on that file system' : ''}. When nothing is left,
          guests that write are paused, or get the error, as each was created.
        </p>
      </div>
    </div>
  )
}

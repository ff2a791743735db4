import { fieldFault, type Brand } from '@typevisor/base'

/** UUIDv7. An instance of the cloud and the domain on its host carry the same id. */
export type DomainId = Brand<string, 'DomainId'>
export type HostId = Brand<string, 'HostId'>
export type VolumeId = Brand<string, 'VolumeId'>
/** A name of an image: `micro`. */
export type ImageName = Brand<string, 'ImageName'>
/** A name as DNS labels are: `web-1`. Safe as a file name, an option value and a host name. */
export type DomainName = Brand<string, 'DomainName'>
/** UUIDv7, chosen by whoever has the snapshot taken. */
export type SnapshotId = Brand<string, 'SnapshotId'>
/** A name of a snapshot, as DNS labels are; of one domain only once. */
export type SnapshotName = Brand<string, 'SnapshotName'>

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
/** RFC 1123 section 2.1, lower case: begins with a letter or digit, so it can never be taken for an option. */
export const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/

export const isUuid = (text: string): boolean => UUID.test(text)
export const isLabel = (text: string): boolean => LABEL.test(text)
export const LABEL_WANT = '1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit'

function parse<T extends string>(path: string, want: string, ok: (text: string) => boolean) {
  return (text: unknown): T => {
    if (typeof text !== 'string' || !ok(text)) {
      const got = JSON.stringify(text)?.slice(0, 100) ?? 'nothing'
      throw fieldFault({ path, want, got })
    }
    return text as T
  }
}

export const parseDomainId = parse<DomainId>('id', 'a UUID', isUuid)
export const parseVolumeId = parse<VolumeId>('volume', 'a UUID or a UUID and a name', (text) =>
  /^[0-9a-f-]{36}(?:\.[a-z0-9-]{1,32})?$/.test(text),
)
export const parseHostId = parse<HostId>('host', LABEL_WANT, isLabel)
export const parseDomainName = parse<DomainName>('name', LABEL_WANT, isLabel)
export const parseSnapshotId = parse<SnapshotId>('snapshot', 'a UUID', isUuid)
export const parseSnapshotName = parse<SnapshotName>('snapshot', LABEL_WANT, isLabel)
export const parseImageName = parse<ImageName>('image', LABEL_WANT, isLabel)

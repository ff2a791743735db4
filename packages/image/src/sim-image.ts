import { bytes, epochMillis, mib } from '@typevisor/base'
import type { ImageName } from '@typevisor/model'
import type { Image } from './ports.ts'

/** The one image of hosts whose domains are in memory: nothing of it is on any disk. */
export const SIM_IMAGE: Image = {
  name: 'micro' as ImageName,
  title: 'In memory',
  digest: 'sim',
  builtAt: epochMillis(0),
  boot: { kind: 'disk' },
  rootDisk: { path: '/sim/micro', format: 'raw', virtualBytes: mib(64), fileBytes: bytes(0) },
  minimum: { memoryBytes: mib(64), diskBytes: mib(64) },
  defaultUser: 'root',
  contents: {},
}

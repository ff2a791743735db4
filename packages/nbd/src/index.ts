/**
 * Network Block Device: disks over a socket.
 *
 *   client --bytes--> connection (server.ts): negotiation --agreement--> transmission --> BlockDevice
 *                          |                                                  |
 *                     ByteChannel (port)                           OutputBuffer, SegmentPool
 *                          |
 *                     node-server.ts: Unix and TCP sockets, TLS
 *
 * Invariants: `wire.ts` is the only source of the format; what a client, and what all together, can make the server hold is bounded (`byte-budget.ts`); no bytes of a client reach
 * another export than the one it opened; each request has one final reply, which says done only when the device did.
 *
 * Failure paths: an option that cannot be served is refused and the next one awaited; a request that cannot be served has its error and the
 * next one is served; what is no NBD ends its connection and nobody else's. A device's Fault becomes the protocol's error
 * (`exhausted` ENOSPC, `invalid` EINVAL, `forbidden` and `stale_fence` EPERM, `unsupported` ENOTSUP, `unavailable` ESHUTDOWN, all others EIO).
 *
 * What it is not: no oldstyle handshake, no resizing by clients.
 *
 * References: NetworkBlockDevice/nbd, doc/proto.md and doc/uri.md; QEMU docs/interop/nbd.txt.
 */
export { ByteBudget } from './byte-budget.ts'
export type { NbdClient, NbdClientOptions, StatusExtent } from './client.ts'
export { memoryDevice } from './memory-device.ts'
export type { TlsPolicy } from './negotiation.ts'
export { connectNbd, listNbdExports, type NbdConnectOptions } from './node-client.ts'
export { assertListenable, listenNbd, type NbdServer, type NbdServerOptions } from './node-server.ts'
export { readPreSharedKeys, readServerCertificates, type NbdClientTls, type NbdTlsOptions } from './node-tls.ts'
export type { ByteChannel, ExportSource, MetaContext, NbdExport } from './ports.ts'
export { serveConnection, type Connection, type ConnectionOptions } from './server.ts'
export { formatNbdUri, NBD_PORT, parseNbdUri, type NbdAddress } from './uri.ts'

/** A disk in memory on a real socket, for tests. */
import type { Socket } from 'node:net'
import { memoryLog } from '@typevisor/sim'
import { MIB } from '@typevisor/base'
import { memoryDevice } from '../memory-device.ts'
import { listenNbd, type NbdServer, type NbdServerOptions } from '../node-server.ts'
import { exportOf, sourceOf } from '../testing.ts'

export const serve = (options: Partial<NbdServerOptions> = {}): Promise<NbdServer> =>
  listenNbd({
    listen: { host: '127.0.0.1', port: 0 },
    source: sourceOf(exportOf('disk', memoryDevice(8 * MIB))),
    log: memoryLog(),
    ...options,
  })

/** Resolves when the socket is closed, also by an error. */
export const gone = (socket: Socket): Promise<void> => new Promise((resolve) => socket.once('close', () => resolve()))

export const addressOf = (server: NbdServer) => ({ host: '127.0.0.1', port: server.port as number }) // it listens on TCP

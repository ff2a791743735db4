import { Channel, Fault } from '@typevisor/base'
import type { MigrationStream } from '@typevisor/toolstack'

const CHUNKS_MAX = 4096

/** Two ends of a stream in memory. */
export function streamPair(): [MigrationStream, MigrationStream] {
  const [there, back] = [new Channel<Uint8Array>(CHUNKS_MAX), new Channel<Uint8Array>(CHUNKS_MAX)]
  const end = (incoming: Channel<Uint8Array>, outgoing: Channel<Uint8Array>): MigrationStream => ({
    readable: incoming,
    async write(content) {
      if (outgoing.closed) throw new Fault('unavailable', 'the other side has closed the stream')
      outgoing.push(content.slice())
    },
    end: async () => outgoing.close(),
    close() {
      outgoing.close()
      incoming.close()
    },
  })
  return [end(back, there), end(there, back)]
}

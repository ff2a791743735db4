import type { Client } from '@typevisor/api/client'
import type { Terminal } from '../terminal.ts'
import type { Parsed } from '../options.ts'

/** Prints the kept output of the serial console, byte for byte. */
export async function log(client: Client, parsed: Parsed, terminal: Terminal, json: boolean): Promise<number> {
  const query = parsed.query as { from?: number; limit?: number }
  const reply = await client.call('instance.log', { params: parsed.params as { instance: string }, query })
  if (json) terminal.out(JSON.stringify(reply, null, 2))
  else process.stdout.write(Buffer.from(reply.contentBase64, 'base64'))
  return 0
}

import type { Client } from '@typevisor/api/client'
import { Fault } from '@typevisor/base'
import type { Terminal } from '../terminal.ts'
import type { Parsed } from '../options.ts'
import { EXIT } from '../exit-codes.ts'

/** Prints bytes as they are: a picture, a file of the guest. They are for a file or a pipe: a picture is not written onto a terminal. */
export async function content(
  client: Client,
  name: 'instance.screenshot' | 'instance.file-get',
  parsed: Parsed,
  terminal: Terminal,
  json: boolean,
): Promise<number> {
  if (name === 'instance.screenshot' && !json && process.stdout.isTTY)
    throw new Fault(
      'invalid',
      'instance screenshot: a picture is no text; write it to a file: instance screenshot NAME > NAME.png',
    )
  const params = parsed.params as { instance: string }
  const reply =
    name === 'instance.screenshot'
      ? await client.call(name, { params })
      : await client.call(name, { params, query: parsed.query as { path: string } })
  if (json) terminal.out(JSON.stringify(reply, null, 2))
  else process.stdout.write(Buffer.from(reply.contentBase64, 'base64'))
  return EXIT.ok
}

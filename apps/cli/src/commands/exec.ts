import type { Client } from '@typevisor/api/client'
import type { Terminal } from '../cli.ts'
import type { Parsed } from '../options.ts'

/** Runs a command in the guest: its output is ours, and so is its exit code (128 + signal when a signal ended it). */
export async function exec(client: Client, parsed: Parsed, terminal: Terminal, json: boolean): Promise<number> {
  const body = parsed.body as { argv: string[]; stdinBase64?: string; timeoutMs?: number }
  const reply = await client.call('instance.exec', { params: parsed.params as { instance: string }, body })
  if (json) terminal.out(JSON.stringify(reply, null, 2))
  else {
    process.stdout.write(Buffer.from(reply.stdoutBase64, 'base64'))
    process.stderr.write(Buffer.from(reply.stderrBase64, 'base64'))
    if (reply.truncated) terminal.say('typevisor: the output was longer than the agent keeps')
  }
  return reply.exitCode ?? 128 + (reply.signal ?? 0)
}

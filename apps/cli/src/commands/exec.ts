import { Fault } from '@typevisor/base'
import type { Client } from '@typevisor/api/client'
import type { Terminal } from '../terminal.ts'
import type { Parsed } from '../options.ts'
import { EXIT } from '../exit-codes.ts'

type ExecBody = { argv: string[]; stdinBase64?: string; timeoutMs?: number }

/** A guest that has just booted starts its agent last: it is waited for a little. */
const AGENT_LIMIT_MS = 20_000
const AGENT_PAUSE_MS = 250

/**
 * Runs a command in the guest: its output is ours, and so is its exit code (128 + signal when a signal ended it, 127 and 126 when it is not
 * there or cannot be executed). What succeeded and has lost output on the way here has not succeeded for us: 125.
 */
export async function exec(client: Client, parsed: Parsed, terminal: Terminal, json: boolean): Promise<number> {
  const reply = await whenAgentAnswers(client, parsed.params as { instance: string }, parsed.body as ExecBody)
  if (json) terminal.out(JSON.stringify(reply, null, 2))
  else {
    process.stdout.write(Buffer.from(reply.stdoutBase64, 'base64'))
    process.stderr.write(Buffer.from(reply.stderrBase64, 'base64'))
    if (reply.truncated) terminal.say('typevisor: the output was cut: it was longer than the agent in the guest keeps (16 MiB)')
  }
  const exitCode = reply.exitCode ?? 128 + (reply.signal ?? 0)
  return reply.truncated && exitCode === EXIT.ok ? EXIT.truncated : exitCode
}

async function whenAgentAnswers(client: Client, params: { instance: string }, body: ExecBody) {
  const end = performance.now() + AGENT_LIMIT_MS
  for (;;) {
    try {
      return await client.call('instance.exec', { params, body })
    } catch (error) {
      // Only when the command cannot have begun: nobody took it.
      const waiting = error instanceof Fault && error.code === 'unavailable' && error.message.includes('no agent')
      if (!waiting || performance.now() > end) throw error
    }
    await new Promise((resolve) => setTimeout(resolve, AGENT_PAUSE_MS))
  }
}

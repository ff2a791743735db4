/** A terminal on the guest's serial console. Ctrl-] leaves, the guest goes on. Piped input is sent, and its end leaves after a moment of silence. */
import { WebSocket } from 'ws'
import { Fault, faultFromJson } from '@typevisor/base'
import type { Client } from '@typevisor/api/client'
import { connection } from '../connect.ts'
import { pinned } from '../node-fetch.ts'
import type { Terminal } from '../terminal.ts'

const LEAVE = 0x1d
const SILENCE_MS = 1500

export async function attach(client: Client, instance: string, from: number, terminal: Terminal): Promise<number> {
  const { url, headers } = client.stream('instance.console', { params: { instance }, query: { from } })
  const socket = new WebSocket(url, { headers, ...pinned(connection(terminal.env).certificate) })
  const closed = Promise.withResolvers<number>()
  let silence: NodeJS.Timeout | undefined
  const leave = () => socket.close(1000)
  const leaveWhenSilent = () => {
    clearTimeout(silence)
    silence = setTimeout(leave, SILENCE_MS)
  }
  let inputEnded = false
  socket.on('message', (content) => {
    process.stdout.write(content as Buffer)
    if (inputEnded) leaveWhenSilent()
  })
  // Refused before it opened: the server's own fault is in the body.
  socket.on('unexpected-response', (_request, response) => {
    void readFault(response).then(closed.reject)
  })
  socket.on('error', (error) =>
    closed.reject(new Fault('unavailable', `console ${instance}: ${error.message}`, { cause: error })),
  )
  socket.on('close', (code, reason) => {
    if (code === 1000 || code === 1005) return closed.resolve(0)
    // `code: message`, as the server ends a stream that failed.
    const told = /^([a-z_]+): (.*)$/s.exec(reason.toString())
    closed.reject(
      told
        ? faultFromJson({ code: told[1], message: told[2] })
        : new Fault('unavailable', `console ${instance}: closed with ${code}`),
    )
  })
  await Promise.race([new Promise<void>((resolve) => socket.once('open', resolve)), closed.promise])
  if (terminal.interactive) {
    terminal.say(`connected to ${instance}; Ctrl-] leaves`)
    process.stdin.setRawMode(true)
  }
  process.stdin.on('data', (content: Buffer) => {
    if (terminal.interactive && content.includes(LEAVE)) return leave()
    socket.send(content)
  })
  process.stdin.on('end', () => {
    inputEnded = true
    leaveWhenSilent()
  })
  try {
    return await closed.promise
  } finally {
    clearTimeout(silence)
    if (terminal.interactive) process.stdin.setRawMode(false)
    process.stdin.pause()
    process.stdin.unref?.()
  }
}

async function readFault(response: AsyncIterable<Buffer>): Promise<Fault> {
  const parts: Buffer[] = []
  for await (const part of response) parts.push(part)
  const text = Buffer.concat(parts).toString()
  try {
    return faultFromJson((JSON.parse(text) as { error?: unknown }).error)
  } catch {
    return new Fault('unavailable', `console: the server answered ${JSON.stringify(text.slice(0, 100))}`)
  }
}

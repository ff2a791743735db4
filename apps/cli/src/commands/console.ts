/** A terminal on the guest's serial console. Ctrl-] leaves, the guest goes on. Piped input is sent, and its end leaves after a moment of silence. */
import { WebSocket } from 'ws'
import { Fault } from '@typevisor/base'
import type { Client } from '@typevisor/api/client'
import { connection } from '../connect.ts'
import { pinned } from '../node-fetch.ts'
import type { Terminal } from '../terminal.ts'

const LEAVE = 0x1d
const SILENCE_MS = 1500

export async function attach(client: Client, instance: string, terminal: Terminal): Promise<number> {
  const { url, headers } = client.stream('instance.console', { params: { instance }, query: { from: 0 } })
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
  socket.on('error', (error) =>
    closed.reject(new Fault('unavailable', `console ${instance}: ${error.message}`, { cause: error })),
  )
  socket.on('close', (code, reason) => {
    if (code === 1000 || code === 1005) closed.resolve(0)
    else closed.reject(new Fault('unavailable', `console ${instance}: ${reason.toString() || `closed with ${code}`}`))
  })
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve)
    socket.once('error', reject)
  }).catch(() => closed.promise)
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

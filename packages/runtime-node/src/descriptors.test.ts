import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { sendDescriptor } from './descriptors.ts'

/** Says what it was sent, and what is in the file that came with it. */
const RECEIVER = `
import array, os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(sys.argv[1])
content, rights, _, _ = s.recvmsg(1024, socket.CMSG_SPACE(4))
fds = array.array('i')
for level, kind, data in rights:
    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS: fds.frombytes(data)
print(content.decode(), len(fds), os.pread(fds[0], 100, 0).decode(), end='')
`

test('another process reads a file by the descriptor that came with the bytes', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tvr-'))
  try {
    const server = createServer().listen(join(folder, 'socket'))
    await once(server, 'listening')
    const receiver = spawn('python3', ['-c', RECEIVER, join(folder, 'socket')], { stdio: ['ignore', 'pipe', 'inherit'] })
    const [socket] = (await once(server, 'connection')) as [Socket]
    await writeFile(join(folder, 'secret'), 'what only the sender could open', { mode: 0o600 })
    await using file = await open(join(folder, 'secret'))
    const { fd } = (socket as unknown as { _handle: { fd: number } })._handle
    assert.equal(sendDescriptor(fd, new TextEncoder().encode('take it'), file.fd), 7)
    assert.equal(await text(receiver.stdout), 'take it 1 what only the sender could open')
    socket.destroy()
    server.close()
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('a socket that takes nothing now is not waited for, and one that is closed is told of', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tvr-'))
  try {
    const server = createServer({ pauseOnConnect: true }).listen(join(folder, 'socket'))
    await once(server, 'listening')
    const script = 'import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read(1)'
    const deaf = spawn('python3', ['-c', script, join(folder, 'socket')], { stdio: ['pipe', 'ignore', 'inherit'] })
    const [socket] = (await once(server, 'connection')) as [Socket]
    const { fd } = (socket as unknown as { _handle: { fd: number } })._handle
    await using file = await open(folder)
    const content = new Uint8Array(64 * 1024)
    let sentBytes = 0
    for (let sent = -1; sent !== 0; sentBytes += sent) sent = sendDescriptor(fd, content, file.fd)
    assert.ok(sentBytes > 0)
    deaf.stdin.end('x')
    await once(deaf, 'close')
    assert.throws(() => sendDescriptor(fd, content, file.fd), { code: 'unavailable' })
    socket.destroy()
    server.close()
  } finally {
    await rm(folder, { recursive: true })
  }
})

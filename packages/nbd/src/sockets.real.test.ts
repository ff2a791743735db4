/** Over real sockets: Unix, TCP and TLS, with our client and with libnbd's. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { Fault, MIB } from '@typevisor/base'
import { memoryLog } from '@typevisor/sim'
import { memoryDevice } from './memory-device.ts'
import { connectNbd, listNbdExports, parseNbdUri } from './node-client.ts'
import { listenNbd, type NbdServer, type NbdServerOptions } from './node-server.ts'
import { exportOf, sourceOf } from './testing.ts'

const run = promisify(execFile)
let dir: string
before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'tv-nbd-'))
})
after(() => rm(dir, { recursive: true, force: true }))

const serve = (options: Partial<NbdServerOptions> = {}): Promise<NbdServer> =>
  listenNbd({
    listen: { host: '127.0.0.1', port: 0 },
    source: sourceOf(exportOf('disk', memoryDevice(8 * MIB))),
    log: memoryLog(),
    ...options,
  })

const addressOf = (server: NbdServer) => ({ host: '127.0.0.1', port: server.port as number }) // it listens on TCP

test('over a Unix socket and over TCP what is read is what was written, in every form of replies', async () => {
  for (const socketPath of [join(dir, 'a.sock'), null]) {
    await using server = await serve(socketPath === null ? {} : { listen: { socketPath } })
    const address = socketPath === null ? addressOf(server) : { socketPath }
    assert.deepEqual(
      (await listNbdExports(address)).map(({ name }) => name),
      ['disk'],
    )
    for (const extendedHeaders of [false, true]) {
      await using client = await connectNbd({ address, exportName: 'disk', extendedHeaders })
      const content = randomBytes(3 * MIB)
      await Promise.all([client.write(12_345, content), client.write(6 * MIB, content.subarray(0, MIB))])
      const parts = Array.from({ length: 50 }, (_, index) => ({ at: index * 60_000, got: new Uint8Array(60_000) }))
      await Promise.all(parts.map(({ at, got }) => client.read(12_345 + at, got)))
      for (const { at, got } of parts) assert.ok(Buffer.from(got).equals(content.subarray(at, at + 60_000)))
    }
  }
})

test('an address that is taken is refused, a socket that a killed server left is not', async () => {
  await using first = await serve()
  await assert.rejects(serve({ listen: addressOf(first) }), (error) => error instanceof Fault && error.code === 'conflict')
  const socketPath = join(dir, 'left.sock')
  await run('/usr/bin/python3', ['-c', `import socket; s = socket.socket(socket.AF_UNIX); s.bind(${JSON.stringify(socketPath)})`])
  {
    await using second = await serve({ listen: { socketPath } })
    assert.equal(second.port, null)
    await assert.rejects(serve({ listen: { socketPath } }), (error) => error instanceof Fault && error.code === 'conflict')
  }
  await writeFile(join(dir, 'file'), '')
  await assert.rejects(
    serve({ listen: { socketPath: join(dir, 'file') } }),
    (error) => error instanceof Fault && error.code === 'conflict',
  )
})

test('a client that goes in the middle of everything leaves the server and the others as they were', async () => {
  await using server = await serve()
  await using other = await connectNbd({ address: addressOf(server), exportName: 'disk' })
  for (let round = 0; round < 20; round += 1) {
    const socket = connect(addressOf(server))
    socket.on('error', () => {})
    socket.write(randomBytes(100))
    await new Promise((resolve) => setTimeout(resolve, round))
    socket.destroy()
    const client = await connectNbd({ address: addressOf(server), exportName: 'disk' })
    const left = client.read(0, new Uint8Array(4 * MIB)).catch((error: unknown) => error)
    await client.close()
    await left
  }
  await other.write(0, new Uint8Array(100).fill(1))
  const deadline = Date.now() + 5000
  while (server.connectionCount > 1 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10))
  assert.equal(server.connectionCount, 1)
})

test('TLS with a certificate: our client and nbdinfo come in, in the clear nobody does', async () => {
  const file = (name: string): string => join(dir, name)
  const openssl = (...words: string[]) => run('openssl', words)
  await openssl(
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-days',
    '2',
    '-subj',
    '/CN=ca',
    '-keyout',
    file('ca-key.pem'),
    '-out',
    file('ca-cert.pem'),
  )
  await openssl(
    'req',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-subj',
    '/CN=localhost',
    '-keyout',
    file('server-key.pem'),
    '-out',
    file('server.csr'),
  )
  await writeFile(file('names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n')
  await openssl(
    'x509',
    '-req',
    '-in',
    file('server.csr'),
    '-CA',
    file('ca-cert.pem'),
    '-CAkey',
    file('ca-key.pem'),
    '-CAcreateserial',
    '-days',
    '2',
    '-extfile',
    file('names'),
    '-out',
    file('server-cert.pem'),
  )
  const [certificate, key, authority] = await Promise.all(
    ['server-cert.pem', 'server-key.pem', 'ca-cert.pem'].map((name) => readFile(file(name), 'utf8')),
  )
  await using server = await serve({ tls: { policy: 'required', certificate: certificate ?? '', key: key ?? '' } })
  const address = addressOf(server)
  await assert.rejects(
    connectNbd({ address, exportName: 'disk' }),
    (error) => error instanceof Fault && error.code === 'unauthenticated' && /TLS/.test(error.message),
  )
  await using client = await connectNbd({
    address,
    exportName: 'disk',
    tls: true,
    authority: authority ?? '',
    serverName: 'localhost',
  })
  await client.write(5, new Uint8Array(100_000).fill(7))
  const content = new Uint8Array(100_000)
  await client.read(5, content)
  assert.ok(content.every((byte) => byte === 7))
  await assert.rejects(connectNbd({ address, exportName: 'disk', tls: true, serverName: 'localhost' }), /certificate/)
  const { stdout } = await run('nbdinfo', [`nbds://localhost:${server.port}/disk?tls-certificates=${dir}`])
  assert.match(stdout, /with TLS/)
})

test('TLS with a key that both sides know (PSK), as libnbd has it', async () => {
  const key = randomBytes(32)
  const path = join(dir, 'keys.psk')
  await writeFile(path, `alice:${key.toString('hex')}\n`)
  const socketPath = join(dir, 'psk.sock')
  await using _server = await serve({
    listen: { socketPath },
    tls: { policy: 'required', preSharedKeys: new Map([['alice', key]]) },
  })
  const { stdout } = await run('nbdinfo', [`nbds+unix://alice@/disk?socket=${socketPath}&tls-psk-file=${path}`])
  assert.match(stdout, /with TLS/)
  await writeFile(path, `alice:${randomBytes(32).toString('hex')}\n`)
  await assert.rejects(run('nbdinfo', [`nbds+unix://alice@/disk?socket=${socketPath}&tls-psk-file=${path}`]))
})

test('URIs are read as the specification has them', () => {
  assert.deepEqual(parseNbdUri('nbd://host/name'), { address: { host: 'host', port: 10_809 }, exportName: 'name', tls: false })
  assert.deepEqual(parseNbdUri('nbds://[::1]:1/a%20b'), { address: { host: '::1', port: 1 }, exportName: 'a b', tls: true })
  assert.deepEqual(parseNbdUri('nbd+unix:///x?socket=/s'), { address: { socketPath: '/s' }, exportName: 'x', tls: false })
  for (const wrong of ['', 'http://x', 'nbd+unix:///x', 'nbd:///x'])
    assert.throws(
      () => parseNbdUri(wrong),
      (error) => error instanceof Fault && error.code === 'invalid',
    )
})

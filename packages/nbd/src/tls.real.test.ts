/** TLS on real sockets: our client, libnbd's and QEMU's, and whoever should not come in. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { connect as connectTls } from 'node:tls'
import { promisify } from 'node:util'
import { Fault, MIB } from '@typevisor/base'
import { connectNbd, listNbdExports, type NbdConnectOptions } from './node-client.ts'
import { type NbdServer } from './node-server.ts'
import { readPreSharedKeys, readServerCertificates } from './node-tls.ts'
import { makeCertificates } from './testing.ts'
import { addressOf, gone, serve } from './testing/served.ts'
import { CLIENT_FLAGS, GREETING, OPT, OPTION, OPTION_MAGIC, OPTION_REPLY, OPTION_REPLY_MAGIC, REP } from './wire.ts'

const run = promisify(execFile)
let dir: string
/** Certificates of ours; our authority's alone; our authority's beside a client that another one signed. */
let ours: string
let nameless: string
let strangers: string
before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'tv-nbd-tls-'))
  ours = join(dir, 'ours')
  nameless = join(dir, 'nameless')
  strangers = join(dir, 'strangers')
  await makeCertificates(ours)
  await makeCertificates(strangers)
  await mkdir(nameless)
  for (const folder of [nameless, strangers]) await cp(join(ours, 'ca-cert.pem'), join(folder, 'ca-cert.pem'))
})
after(() => rm(dir, { recursive: true, force: true }))

const pem = (folder: string, name: string): Promise<string> => readFile(join(folder, name), 'utf8')

const isFault = (code: string, words: RegExp) => (error: unknown) =>
  error instanceof Fault && error.code === code && words.test(error.message)

async function writesAndReads(options: NbdConnectOptions): Promise<void> {
  await using client = await connectNbd(options)
  const content = randomBytes(3 * MIB)
  await client.write(5, content)
  const got = new Uint8Array(content.length)
  await client.read(5, got)
  assert.ok(content.equals(got))
}

/** What QEMU is told of credentials and of where the server is. */
const qemu = (server: NbdServer, credentials: string): string[] => [
  '--object',
  `${credentials},id=tls,endpoint=client`,
  '--image-opts',
  `driver=nbd,host=localhost,port=${server.port},export=disk,tls-creds=tls`,
]

test('with a certificate our client, libnbd and QEMU come in, on TCP and on a Unix socket; in the clear nobody does', async () => {
  const tls = { policy: 'required' as const, ...(await readServerCertificates(ours)) }
  const authority = await pem(ours, 'ca-cert.pem')
  await using server = await serve({ tls })
  const address = addressOf(server)
  for (const refused of [() => connectNbd({ address, exportName: 'disk' }), () => listNbdExports(address)])
    await assert.rejects(refused(), isFault('unauthenticated', /TLS/))
  await assert.rejects(run('nbdinfo', [`nbd://localhost:${server.port}/disk`]), /not supported/)
  await writesAndReads({ address, exportName: 'disk', tls: true, authority })
  await writesAndReads({ address, exportName: 'disk', tls: true, authority, serverName: 'localhost' })
  assert.deepEqual(await listNbdExports(address, { tls: true, authority }), [{ name: 'disk', description: '' }])
  await assert.rejects(connectNbd({ address, exportName: 'disk', tls: true }), isFault('unauthenticated', /certificate/))
  await assert.rejects(
    connectNbd({ address, exportName: 'disk', tls: true, authority, serverName: 'elsewhere' }),
    isFault('unauthenticated', /elsewhere/),
  )
  assert.match((await run('nbdinfo', [`nbds://localhost:${server.port}/disk?tls-certificates=${nameless}`])).stdout, /with TLS/)
  const info = await run('qemu-img', ['info', ...qemu(server, `tls-creds-x509,dir=${nameless}`)])
  assert.match(info.stdout, /8 MiB/)

  const socketPath = join(dir, 'certificate.sock')
  await using _onUnix = await serve({ listen: { socketPath }, tls })
  await writesAndReads({ address: { socketPath }, exportName: 'disk', tls: true, authority })
  const { stdout } = await run('nbdinfo', [`nbds+unix:///disk?socket=${socketPath}&tls-certificates=${nameless}`])
  assert.match(stdout, /with TLS/)
})

test('a server that wants certificates of clients lets in who has one, and neither who has none nor who has one of somebody else', async () => {
  const tls = { policy: 'required' as const, ...(await readServerCertificates(ours, { verifyPeer: true })) }
  await using server = await serve({ tls })
  const authority = await pem(ours, 'ca-cert.pem')
  const common = { address: addressOf(server), exportName: 'disk', tls: true, authority }
  const own = async (folder: string) => ({
    certificate: await pem(folder, 'client-cert.pem'),
    key: await pem(folder, 'client-key.pem'),
  })
  const uri = (folder: string): string => `nbds://localhost:${server.port}/disk?tls-certificates=${folder}`
  await writesAndReads({ ...common, ...(await own(ours)) })
  assert.match((await run('nbdinfo', [uri(ours)])).stdout, /with TLS/)
  assert.match((await run('qemu-img', ['info', ...qemu(server, `tls-creds-x509,dir=${ours}`)])).stdout, /8 MiB/)
  for (const theirs of [{}, await own(strangers)])
    await assert.rejects(connectNbd({ ...common, ...theirs }), (error) => error instanceof Fault)
  for (const folder of [nameless, strangers]) {
    await assert.rejects(run('nbdinfo', [uri(folder)]))
    await assert.rejects(run('qemu-img', ['info', ...qemu(server, `tls-creds-x509,dir=${folder}`)]))
  }
})

test('with a key that both sides know our client, libnbd and QEMU come in, and not with another key, another name or none', async () => {
  const keys = join(dir, 'keys')
  const path = join(keys, 'keys.psk')
  await mkdir(keys)
  await writeFile(path, `# a comment\nalice:${randomBytes(32).toString('hex')}\nbob:${randomBytes(16).toString('hex')}\n`)
  const preSharedKeys = await readPreSharedKeys(path)
  const key = preSharedKeys.get('alice') as Uint8Array // it was written
  await using server = await serve({ tls: { policy: 'required', preSharedKeys } })
  const common = { address: addressOf(server), exportName: 'disk', tls: true }
  await writesAndReads({ ...common, preSharedKey: { identity: 'alice', key } })
  for (const preSharedKey of [
    { identity: 'alice', key: randomBytes(32) },
    { identity: 'carol', key },
  ])
    await assert.rejects(connectNbd({ ...common, preSharedKey }), isFault('unauthenticated', /TLS/))
  await assert.rejects(connectNbd(common), isFault('unauthenticated', /TLS/))
  await assert.rejects(connectNbd({ ...common, authority: await pem(ours, 'ca-cert.pem') }), isFault('unauthenticated', /TLS/))

  const uri = (user: string, file: string): string => `nbds://${user}@localhost:${server.port}/disk?tls-psk-file=${file}`
  const wrong = join(dir, 'wrong.psk')
  await writeFile(wrong, `alice:${randomBytes(32).toString('hex')}\n`)
  for (const user of ['alice', 'bob']) assert.match((await run('nbdinfo', [uri(user, path)])).stdout, /with TLS/)
  await assert.rejects(run('nbdinfo', [uri('alice', wrong)]))
  const info = await run('qemu-img', ['info', ...qemu(server, `tls-creds-psk,dir=${keys},username=alice`)])
  assert.match(info.stdout, /8 MiB/)

  const socketPath = join(dir, 'psk.sock')
  await using _onUnix = await serve({ listen: { socketPath }, tls: { policy: 'required', preSharedKeys } })
  const { stdout } = await run('nbdinfo', [`nbds+unix://alice@/disk?socket=${socketPath}&tls-psk-file=${path}`])
  assert.match(stdout, /with TLS/)
})

test('without any proof there is no cipher, whatever a client offers', async () => {
  await using server = await serve({ tls: { policy: 'required', preSharedKeys: new Map([['alice', randomBytes(32)]]) } })
  const plain = connect(addressOf(server))
  await takes(plain, GREETING.sizeBytes)
  plain.write(Buffer.concat([CLIENT_FLAGS.encode({ flags: 3 }), option(OPT.startTls)]))
  await takes(plain, OPTION_REPLY.sizeBytes)
  const secure = connectTls({
    socket: plain,
    ciphers: 'aNULL:eNULL:@SECLEVEL=0',
    minVersion: 'TLSv1.2',
    maxVersion: 'TLSv1.2',
    rejectUnauthorized: false,
  })
  await assert.rejects(once(secure, 'secureConnect'))
})

test('a server that offers TLS serves both who asks for it and who does not, and forgets what was agreed before it', async () => {
  await using server = await serve({ tls: { policy: 'offered', ...(await readServerCertificates(ours)) } })
  const address = addressOf(server)
  const authority = await pem(ours, 'ca-cert.pem')
  await writesAndReads({ address, exportName: 'disk' })
  await writesAndReads({ address, exportName: 'disk', tls: true, authority })
  const [port, folder] = [server.port, nameless]
  assert.doesNotMatch((await run('nbdinfo', [`nbd://localhost:${port}/disk`])).stdout, /with TLS/)
  assert.match((await run('nbdinfo', [`nbds://localhost:${port}/disk?tls-certificates=${folder}`])).stdout, /with TLS/)

  const plain = connect(address)
  await takes(plain, GREETING.sizeBytes)
  plain.write(Buffer.concat([CLIENT_FLAGS.encode({ flags: 3 }), option(OPT.structuredReply)]))
  await takes(plain, OPTION_REPLY.sizeBytes)
  plain.write(option(OPT.startTls))
  await takes(plain, OPTION_REPLY.sizeBytes)
  const secure = connectTls({ socket: plain, ca: authority, host: 'localhost' })
  await once(secure, 'secureConnect')
  // Contexts want structured replies, and those were agreed upon in the clear.
  secure.write(option(OPT.listMetaContext, Buffer.from([0, 0, 0, 4, ...Buffer.from('disk'), 0, 0, 0, 0])))
  assert.equal(OPTION_REPLY.decode(await takes(secure, OPTION_REPLY.sizeBytes)).reply, REP.invalid)
  secure.destroy()
})

test('what comes along with STARTTLS in the clear ends the connection, unanswered', async () => {
  await using server = await serve({ tls: { policy: 'required', ...(await readServerCertificates(ours)) } })
  const plain = connect(addressOf(server))
  await takes(plain, GREETING.sizeBytes)
  plain.write(Buffer.concat([CLIENT_FLAGS.encode({ flags: 3 }), option(OPT.startTls), option(OPT.list)]))
  const said: Buffer[] = []
  plain.on('data', (chunk: Buffer) => said.push(chunk))
  plain.on('error', () => {})
  await gone(plain)
  assert.equal(Buffer.concat(said).length, 0)
})

test('what comes in the clear after STARTTLS and before the handshake is no part of the session', async () => {
  await using server = await serve({ tls: { policy: 'required', ...(await readServerCertificates(ours)) } })
  const plain = connect(addressOf(server))
  await takes(plain, GREETING.sizeBytes)
  plain.write(Buffer.concat([CLIENT_FLAGS.encode({ flags: 3 }), option(OPT.startTls)]))
  await takes(plain, OPTION_REPLY.sizeBytes)
  plain.on('error', () => {})
  const said: Buffer[] = []
  plain.on('data', (chunk: Buffer) => said.push(chunk))
  plain.write(option(OPT.list))
  await gone(plain)
  assert.ok(!Buffer.concat(said).includes('disk'))
})

test('our client takes nothing as the word of the server that came in the clear behind its answer to STARTTLS', async () => {
  const answer = OPTION_REPLY.encode({ magic: OPTION_REPLY_MAGIC, option: OPT.startTls, reply: REP.ack, lengthBytes: 0 })
  const forged = OPTION_REPLY.encode({ magic: OPTION_REPLY_MAGIC, option: OPT.structuredReply, reply: REP.ack, lengthBytes: 0 })
  const between = createServer((socket) => {
    socket.on('error', () => {})
    socket.write(GREETING.encode({ nbdMagic: 0x4e42444d41474943n, optionMagic: OPTION_MAGIC, flags: 3 }))
    void (async () => {
      await takes(socket, CLIENT_FLAGS.sizeBytes + OPTION.sizeBytes)
      socket.write(Buffer.concat([answer, forged]))
      // Nothing more, unless the client goes on.
      await once(socket, 'readable')
      socket.destroy()
    })()
  }).listen(0, '127.0.0.1')
  await once(between, 'listening')
  try {
    const { port } = between.address() as AddressInfo // it listens on TCP
    await assert.rejects(
      connectNbd({ address: { host: '127.0.0.1', port }, exportName: 'disk', tls: true }),
      isFault('invalid', /in the clear/),
    )
  } finally {
    between.close()
  }
})

test('files that are no certificates, no keys, or not there are refused with their names', async () => {
  await assert.rejects(readServerCertificates(join(dir, 'nowhere')), isFault('not_found', /nowhere\/server-cert.pem/))
  const path = join(dir, 'bad.psk')
  for (const [content, words] of [
    ['alice\n', /bad.psk: line 1/],
    ['alice:00\nbob:123\n', /bad.psk: line 2/],
    ['\n', /no key/],
  ] as const) {
    await writeFile(path, content)
    await assert.rejects(readPreSharedKeys(path), isFault('invalid', words))
  }
  await assert.rejects(serve({ tls: { policy: 'required', certificate: 'none', key: 'none' } }), isFault('invalid', /TLS/))
  await assert.rejects(serve({ tls: { policy: 'required' } }), isFault('invalid', /neither/))
})

test('a server that closes ends connections under TLS too', async () => {
  const server = await serve({ tls: { policy: 'required', ...(await readServerCertificates(ours)) } })
  const authority = await pem(ours, 'ca-cert.pem')
  const client = await connectNbd({ address: addressOf(server), exportName: 'disk', tls: true, authority })
  await server.close()
  await assert.rejects(client.read(0, new Uint8Array(512)), isFault('unavailable', /./))
  await client.close()
})

function option(number: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  return Buffer.concat([OPTION.encode({ magic: OPTION_MAGIC, option: number, lengthBytes: payload.length }), payload])
}

/** The next bytes of a stream. */
async function takes(stream: NodeJS.ReadableStream, countBytes: number): Promise<Buffer> {
  for (;;) {
    const got = stream.read(countBytes) as Buffer | null
    if (got !== null) return got
    await once(stream, 'readable')
  }
}

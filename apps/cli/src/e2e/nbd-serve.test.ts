/** `nbd serve` by itself: where it listens, what it says, TLS, a disk in memory; with other people's clients. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { connectNbd, NBD_PORT, parseNbdUri } from '@typevisor/nbd'
import { makeCertificates } from '@typevisor/nbd/testing'
import { run, typevisor } from './child.ts'
import { temporaryFolder } from './harness.ts'

const exec = promisify(execFile)
let dir: string
before(async () => {
  dir = await temporaryFolder()
})
after(() => rm(dir, { recursive: true, force: true }))

const addressSaidBy = async (child: ReturnType<typeof typevisor>): Promise<string> =>
  (await child.says(/serving (nbds?(?:\+unix)?:\/\/\S+)\n/))[1] ?? ''

test('without a place to listen at it is the port of the protocol on this machine, and one that is taken is told with what to do', async (t) => {
  const folder = join(dir, 'default')
  const blocker = createServer().listen(NBD_PORT, '127.0.0.1')
  const isOurs = await once(blocker, 'listening').then(
    () => true,
    () => false,
  )
  const refused = await run(['nbd', 'serve', '--dir', folder])
  assert.equal(refused.code, 4, refused.said)
  assert.match(refused.said, /listen on 127\.0\.0\.1:10809: .*; --port PORT listens on another one/)
  if (!isOurs) return t.diagnostic("port 10809 is somebody else's: the rest cannot be seen")
  blocker.close()
  await once(blocker, 'close')
  await using child = typevisor(['nbd', 'serve', '--dir', folder])
  assert.equal(await addressSaidBy(child), 'nbd://127.0.0.1:10809')
  await child.says(/no volume yet: typevisor volume create NAME .* --dir .*default makes one/)
  assert.equal((await run(['volume', 'create', 'web', '--size', '64MiB', '--dir', folder])).code, 0)
  assert.match((await exec('qemu-img', ['info', 'nbd://127.0.0.1/web'])).stdout, /virtual size: 64 MiB/)
})

test('a port that was named and is taken is a conflict', async () => {
  const blocker = createServer().listen(0, '127.0.0.1')
  await once(blocker, 'listening')
  const { port } = blocker.address() as AddressInfo // it listens on TCP
  const { code, said } = await run(['nbd', 'serve', '--memory', '1MiB', '--port', String(port)])
  blocker.close()
  assert.equal(code, 4)
  assert.match(said, new RegExp(`listen on 127.0.0.1:${port}: .*in use.*; --port 0 takes any free one`))
})

test('flags that would say nothing, or two things, are refused', async () => {
  const file = join(dir, 'empty')
  await writeFile(file, '')
  const memory = ['--memory', '1MiB']
  const disks = ['--dir', join(dir, 'refused')]
  for (const [words, why] of [
    [['--dir', 'x', ...memory], /either --dir or --memory/],
    [[...memory, '--socket', 's', '--host', '::1'], /--socket or --host, not both/],
    [[...memory, '--socket', 's', '--port', '1'], /--socket or --port, not both/],
    [[...memory, '--key-file', file], /--key-file .* --memory has none/],
    [[...memory, '--port', '65536'], /--port: got "65536"/],
    [['--memory', 'much'], /--memory: got "much", want a size/],
    [['--memory', '9000000T'], /--memory: got .*, want a size/],
    [[...disks, '--tls', 'require'], /--tls wants --tls-certificates or --tls-psk/],
    [[...disks, '--tls', 'maybe', '--tls-psk', file], /--tls: got "maybe", want on or require/],
    [[...disks, '--tls-certificates', dir, '--tls-psk', file], /not both/],
    [[...disks, '--tls-psk', file, '--tls-verify-peer'], /--tls-verify-peer wants --tls-certificates/],
    [[...disks, '--tls-psk', file], /empty: got no key/],
  ] as const) {
    const { code, said } = await run(['nbd', 'serve', ...words])
    assert.equal(code, 2, `${words.join(' ')}: ${said}`)
    assert.match(said, why)
  }
  assert.equal((await run(['nbd', 'serve', ...disks, '--tls-certificates', join(dir, 'nowhere')])).code, 3)
  await assert.rejects(readFile(join(dir, 'refused', 'store')), 'nothing was made')
})

test('a disk in memory is served on TCP: nbdcopy brings an image in and out, nbdinfo sees it', async () => {
  await using child = typevisor(['nbd', 'serve', '--memory', '32MiB', '--port', '0', '--host', 'localhost'])
  const uri = await addressSaidBy(child)
  assert.match(uri, /^nbd:\/\/localhost:\d+$/)
  const [info] = (JSON.parse((await exec('nbdinfo', ['--json', uri])).stdout) as { exports: Record<string, unknown>[] }).exports
  assert.equal(info?.['export-size'], 32 * 1024 * 1024)
  assert.match(String(info?.['description']), /32 MiB in memory/)
  const [from, to] = [join(dir, 'from'), join(dir, 'to')]
  const content = Buffer.concat([Buffer.alloc(3_000_000), randomBytes(5_000_000), Buffer.alloc(32 * 1024 * 1024 - 8_000_000)])
  await writeFile(from, content)
  await exec('nbdcopy', [from, uri])
  await exec('nbdcopy', [uri, to])
  assert.ok((await readFile(to)).equals(content))
  await child.kill('SIGTERM')
  assert.equal(await child.exited, 0)
})

test('on IPv6 and on a socket with blanks in its path, clients come in by the URI that was said', async () => {
  const socketPath = join(dir, 'a socket & more.sock')
  for (const words of [
    ['--host', '::1', '--port', '0'],
    ['--socket', socketPath],
  ]) {
    await using child = typevisor(['nbd', 'serve', '--memory', '1MiB', ...words])
    const uri = await addressSaidBy(child)
    assert.match((await exec('nbdinfo', [uri])).stdout, /export-size: 1048576/)
    assert.match((await exec('qemu-img', ['info', uri])).stdout, /1 MiB/)
    const { address, exportName } = parseNbdUri(uri)
    await using client = await connectNbd({ address, exportName })
    assert.equal(client.sizeBytes, 1024 * 1024)
  }
})

test('under TLS, with certificates and with keys: nbdinfo, nbdcopy and qemu-img come in, and others do not', async () => {
  const certificates = join(dir, 'pki')
  await makeCertificates(certificates)
  const folder = join(dir, 'secured')
  assert.equal((await run(['volume', 'create', 'web', '--size', '1MiB', '--dir', folder])).code, 0)
  {
    const socketPath = join(dir, 'tls.sock')
    for (const listen of [
      ['--port', '0'],
      ['--socket', socketPath],
    ]) {
      const words = ['--tls-certificates', certificates, '--tls-verify-peer']
      await using child = typevisor(['nbd', 'serve', '--dir', folder, ...listen, ...words])
      const uri = await addressSaidBy(child)
      assert.match(uri, /^nbds/)
      const { address } = parseNbdUri(uri)
      const theirs =
        address.socketPath === undefined ? `nbds://localhost:${address.port}/web?` : `${uri.replace('///', '///web')}&`
      assert.match((await exec('nbdinfo', [`${theirs}tls-certificates=${certificates}`])).stdout, /with TLS/)
      await exec('nbdcopy', [`${theirs}tls-certificates=${certificates}`, join(dir, 'copied')])
      await assert.rejects(connectNbd({ address, exportName: 'web' }), /TLS/)
      const authority = await readFile(join(certificates, 'ca-cert.pem'), 'utf8')
      await assert.rejects(connectNbd({ address, exportName: 'web', tls: true, authority }))
      if (address.port === undefined) continue
      const credentials = `tls-creds-x509,id=tls,endpoint=client,dir=${certificates}`
      const image = `driver=nbd,host=localhost,port=${address.port},export=web,tls-creds=tls`
      assert.match((await exec('qemu-img', ['info', '--object', credentials, '--image-opts', image])).stdout, /1 MiB/)
    }
  }
  const keys = join(dir, 'keys')
  await mkdir(keys)
  const file = join(keys, 'keys.psk')
  await writeFile(file, `alice:${randomBytes(32).toString('hex')}\n`)
  await using child = typevisor(['nbd', 'serve', '--dir', folder, '--port', '0', '--tls-psk', file, '--tls', 'on'])
  const { address } = parseNbdUri(await addressSaidBy(child))
  assert.match((await exec('nbdinfo', [`nbds://alice@localhost:${address.port}/web?tls-psk-file=${file}`])).stdout, /with TLS/)
  const credentials = `tls-creds-psk,id=tls,endpoint=client,dir=${keys},username=alice`
  const image = `driver=nbd,host=localhost,port=${address.port},export=web,tls-creds=tls`
  assert.match((await exec('qemu-img', ['info', '--object', credentials, '--image-opts', image])).stdout, /1 MiB/)
  assert.doesNotMatch((await exec('nbdinfo', [`nbd://localhost:${address.port}/web`])).stdout, /with TLS/)
})

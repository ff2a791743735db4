/** A server and the agents of two hosts, each a process of its own with a folder and a volume server of its own, for real guests on QEMU. */
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { endAll, machine, relay, typevisor, until, type Child, type Life, type Machine, type Relay } from './child.ts'
import { temporaryFolder } from './harness.ts'

export interface JoinedHost {
  readonly name: string
  readonly dataDir: string
  readonly token: string
  agent: Child
}

export interface TwoHosts extends AsyncDisposable {
  readonly server: Machine
  /** The server's first one. */
  readonly life: Life
  /** Of whichever server there is. */
  readonly address: Relay
  /** `left` and `right`; both have the image `micro`. */
  readonly hosts: readonly [JoinedHost, JoinedHost]
  startAgent(host: Omit<JoinedHost, 'agent'>): Child
}

export async function twoHosts(): Promise<TwoHosts> {
  await using stack = new AsyncDisposableStack()
  const server = stack.use(await machine())
  const life = await server.start('--no-agent')
  const address = stack.use(await relay())
  address.target = life.url
  const startAgent: TwoHosts['startAgent'] = ({ name, dataDir, token }) =>
    typevisor(['agent', '--server', address.url, '--name', name, '--data', dataDir], { TYPEVISOR_HOST_TOKEN: token })
  const join = async (name: string): Promise<JoinedHost> => {
    const dataDir = await temporaryFolder()
    const { secret: token } = await life.client.call('host.token', { body: { name } })
    const host = { name, dataDir, token, agent: startAgent({ name, dataDir, token }) }
    stack.defer(async () => {
      await host.agent.kill('SIGTERM')
      await endAll(dataDir, dataDir)
      await rm(dataDir, { recursive: true, force: true })
    })
    return host
  }
  const hosts = [await join('left'), await join('right')] as const
  for (const { name } of hosts) {
    await until(`${name} is connected`, async () =>
      (await life.client.call('host.list', {})).items.some((host) => host.name === name && host.connected),
    )
    const params = { image: 'micro' }
    const { operation } = await life.client.call('image.build', { params, body: { host: name }, query: { wait: 60 } })
    assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
  }
  const made = stack.move()
  return { server, life, address, hosts, startAgent, [Symbol.asyncDispose]: () => made.disposeAsync() }
}

/** A guest that moves between two hosts, and what must be so of it whatever was killed: `migration.test.ts` and its long sister move it. */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Client } from '@typevisor/api/client'
import { guestsOf, until } from './child.ts'
import type { JoinedHost, TwoHosts } from './two-hosts.ts'

/** What it was before a move. */
export interface Before {
  readonly count: number
  readonly boot: string
}

const NAME = 'mover'
export const MEMORY_BYTES = 192 * 1024 * 1024

export class Mover {
  readonly params = { instance: NAME }
  readonly #hosts: TwoHosts['hosts']
  /** Of whichever server there is. */
  readonly #client: () => Client

  constructor(hosts: TwoHosts['hosts'], client: () => Client) {
    this.#hosts = hosts
    this.#client = client
  }

  async create(more: Readonly<Record<string, unknown>> = {}): Promise<void> {
    const size = { memoryBytes: MEMORY_BYTES, rootDiskBytes: 256 * 1024 * 1024 }
    const body = { name: NAME, image: 'micro', host: 'left', ...size, ...more }
    const { instance } = await this.#client().call('instance.create', { body, query: { wait: 60 } })
    assert.equal(instance?.state.kind, 'running')
    await this.untilAnswers()
    await this.countUp()
  }

  async exec(script: string): Promise<string> {
    const body = { argv: ['/bin/sh', '-c', script], timeoutMs: 20_000 }
    const { exitCode, stdoutBase64 } = await this.#client().call('instance.exec', { params: this.params, body })
    assert.equal(exitCode, 0, script)
    return Buffer.from(stdoutBase64, 'base64').toString().trim()
  }

  async untilAnswers(): Promise<void> {
    await until('the guest answers', () =>
      this.exec('true').then(
        () => true,
        () => false,
      ),
    )
  }

  /** It has a number in its memory that grows, and the name of its boot on its disk. */
  async countUp(): Promise<void> {
    const counting = 'n=0; while :; do n=$((n+1)); echo $n >/run/count; sleep 0.05; done >/dev/null 2>&1 &'
    await this.exec(`cat /proc/sys/kernel/random/boot_id >/root/kept; sync; ${counting}`)
    await until('it counts', () =>
      this.count().then(
        (found) => found > 5,
        () => false,
      ),
    )
  }

  row() {
    return this.#client().call('instance.get', { params: this.params })
  }
  async count(): Promise<number> {
    return Number(await this.exec('cat /run/count'))
  }
  bootId(): Promise<string> {
    return this.exec('cat /proc/sys/kernel/random/boot_id')
  }
  async before(): Promise<Before> {
    return { count: await this.count(), boot: await this.bootId() }
  }

  async hostOf(): Promise<[here: JoinedHost, there: JoinedHost]> {
    const { host } = await this.row()
    const [left, right] = this.#hosts
    return host === 'left' ? [left, right] : [right, left]
  }

  /** It runs on the host that its row names, as it did before, and there is nothing of it on the other one. */
  async assertWhole(what: string, before: Before): Promise<JoinedHost> {
    const [here, there] = await this.hostOf()
    const { id, state, operation } = await this.row()
    assert.deepEqual([state.kind, operation], ['running', null], what)
    await until(`${what}: it counts`, async () => (await this.count()) > before.count)
    assert.equal(await this.bootId(), before.boot, `${what}: it has not booted`)
    assert.equal(await this.exec('cat /root/kept'), before.boot, what)
    assert.deepEqual([...guestsOf(here.dataDir).keys()], [id], what)
    assert.equal(guestsOf(there.dataDir).size, 0, what)
    for (const folder of ['volumes', 'domains']) assert.deepEqual(await readdir(join(there.dataDir, folder)), [], what)
    return here
  }
}

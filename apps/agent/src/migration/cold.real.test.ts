/** A guest with UEFI and a TPM moves between two hosts of this process, stopped, saved and running: what both keep goes with it. */
import assert from 'node:assert/strict'
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { mib } from '@typevisor/base'
import { missingQemu } from '@typevisor/image/testing'
import { parseImageName, type DomainId, type DomainName, type DomainSpec } from '@typevisor/model'
import { consoleLog, realClock, realRng, uuidv7Ids } from '@typevisor/runtime-node'
import { openHost, type Host } from '../host.ts'

const clock = realClock()
const rng = realRng()
const ids = uuidv7Ids(clock, rng)
const log = consoleLog({ level: 'error' })
const command = () => ({ commandId: ids.next() })
const IMAGE = parseImageName('micro')
const EFIVARS = 'vars=/run/efivars; modprobe efivarfs 2>/dev/null; mkdir -p $vars; mount -t efivarfs none $vars 2>/dev/null'
const VARIABLE = '$vars/Typevisor.moved-0e9b2f6a-7c11-4d5e-9a53-1f6d3c8b2a40'
const LATER = '$vars/Typevisor.later-0e9b2f6a-7c11-4d5e-9a53-1f6d3c8b2a40'

interface Side {
  readonly dataDir: string
  readonly host: Host
}

async function open(stack: AsyncDisposableStack, name: string): Promise<Side> {
  const dataDir = await mkdtemp(join(tmpdir(), 'tv-cold-'))
  await chmod(dataDir, 0o711)
  stack.defer(() => rm(dataDir, { recursive: true, force: true }))
  const host = await openHost({ name, dataDir, driver: 'qemu', version: '0', clock, rng, ids, log })
  stack.defer(() => host.close())
  await host.images.build(IMAGE)
  return { dataDir, host }
}

async function inGuest({ host }: Side, id: DomainId, script: string): Promise<string> {
  for (const end = performance.now() + 120_000; ; await sleep(200)) {
    try {
      const { stdout } = await host.toolstack.exec(id, { argv: ['/bin/sh', '-c', script], timeoutMs: 20_000 })
      return new TextDecoder().decode(stdout).trim()
    } catch (error) {
      if (performance.now() > end) throw error
    }
  }
}

async function move(from: Side, to: Side, id: DomainId): Promise<void> {
  const request = await from.host.toolstack.migrationRequest(id)
  const offer = await to.host.toolstack.receive(id, request, command())
  const { confirmed, statistics } = await from.host.toolstack.migrate(id, offer, command())
  assert.ok(confirmed && statistics.diskBytes > 0)
  assert.deepEqual(from.host.toolstack.list(), [])
  for (const folder of ['domains', 'saves', 'volumes']) assert.deepEqual(await readdir(join(from.dataDir, folder)), [], folder)
}

/** What firmware and TPM have written down. */
const kept = ({ dataDir }: Side, id: DomainId) =>
  Promise.all(['nvram.fd', 'tpm/tpm2-00.permall'].map((name) => readFile(join(dataDir, 'domains', id, name))))

test(
  'a stopped guest goes with its NVRAM and TPM, a saved and a running one go on with them',
  { skip: missingQemu(), timeout: 600_000 },
  async (t) => {
    await using stack = new AsyncDisposableStack()
    const [left, right] = [await open(stack, 'left'), await open(stack, 'right')]
    const guests = (await left.host.toolstack.capabilities()).guests?.x86_64
    const missing = [guests?.firmware.uefi, guests?.tpm].find((capability) => capability && !capability.can)
    if (missing && !missing.can) return t.skip(missing.reason)
    const id = ids.next() as DomainId
    const spec: DomainSpec = {
      name: 'moved' as DomainName,
      vcpuCount: 1,
      memoryBytes: mib(256),
      image: IMAGE,
      rootDiskBytes: mib(256) as never,
      cloudInit: { hostname: 'moved', user: null, sshKeys: [], userData: null },
      forwards: [],
      labels: {},
      firmware: 'uefi',
      tpm: true,
    }
    stack.defer(async () => {
      for (const { host } of [left, right])
        if (host.toolstack.get(id)) await host.toolstack.carryOut('destroy', id, command()).catch(() => {})
    })
    await left.host.toolstack.define(id, spec, command())
    await left.host.toolstack.carryOut('start', id, command())
    const written = await inGuest(
      left,
      id,
      `${EFIVARS}; printf '\\007\\000\\000\\000x' > ${VARIABLE} && [ -c /dev/tpm0 ] && echo kept`,
    )
    assert.equal(written, 'kept')
    await left.host.toolstack.carryOut('shutdown', id, command())
    const before = await kept(left, id)
    await move(left, right, id)
    const after = await kept(right, id)
    for (const index of [0, 1]) assert.ok(before[index]?.equals(after[index] as Buffer), `file ${index}`)
    await right.host.toolstack.carryOut('start', id, command())
    assert.equal(await inGuest(right, id, `${EFIVARS}; tail -c 1 ${VARIABLE}; [ -c /dev/tpm0 ] && echo ' tpm'`), 'x tpm')
    const boot = await inGuest(right, id, 'cat /proc/sys/kernel/random/boot_id')
    await right.host.toolstack.carryOut('save', id, command())
    await move(right, left, id)
    await left.host.toolstack.carryOut('restore', id, command())
    assert.equal(
      await inGuest(left, id, `cat /proc/sys/kernel/random/boot_id; tail -c 1 /run/efivars/${VARIABLE.slice(6)}`),
      `${boot}\nx`,
    )

    // Its firmware has measured into the TPM, and what it writes next is in QEMU's memory as much as in the file.
    const measured = 'cat /sys/class/tpm/tpm0/pcr-sha256/0'
    const pcr = await inGuest(left, id, `vars=/run/efivars; printf '\\007\\000\\000\\000y' > ${LATER}; ${measured}`)
    assert.match(pcr, /^(?!0+$)[0-9A-F]{64}$/)
    await move(left, right, id)
    const both = (mount: string): string => `${mount}; tail -c 1 ${VARIABLE}; tail -c 1 ${LATER}; echo; ${measured}`
    assert.equal(await inGuest(right, id, both('vars=/run/efivars')), `xy\n${pcr}`)
    assert.equal(await inGuest(right, id, 'cat /proc/sys/kernel/random/boot_id'), boot)
    await right.host.toolstack.carryOut('shutdown', id, command())
    await right.host.toolstack.carryOut('start', id, command())
    assert.equal(await inGuest(right, id, both(EFIVARS)), `xy\n${pcr}`)
    await right.host.toolstack.carryOut('destroy', id, command())
  },
)

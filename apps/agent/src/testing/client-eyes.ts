/** What a client of the API sees of the script's domain. */
import assert from 'node:assert/strict'
import type { Client } from '@typevisor/api/client'
import { toFault } from '@typevisor/base'
import { INSTANCE, type Eyes, type HostName } from './script.ts'

const params = { instance: INSTANCE }

/** Beside whoever does the steps. */
export const clientEyes = (client: Client, folders: Eyes['folders']): Eyes => ({
  folders,
  async look() {
    const found = await client.call('instance.get', { params }).catch((error: unknown) => {
      if (toFault(error).code === 'not_found') return null
      throw error
    })
    if (found === null) return null
    const { id, host, state, forwards, snapshotCount } = found
    // It is on one of the two.
    return { id, host: host as HostName, state: state.kind, why: JSON.stringify(state), forwards, snapshotCount }
  },
  async inGuest(script) {
    const body = { argv: ['/bin/sh', '-c', script], timeoutMs: 20_000 }
    const { exitCode, stdoutBase64 } = await client.call('instance.exec', { params, body })
    assert.equal(exitCode, 0, script)
    return Buffer.from(stdoutBase64, 'base64').toString().trim()
  },
  async statistics() {
    const { balloonBytes, vcpus } = await client.call('instance.statistics', { params })
    return { balloonBytes, vcpuCount: vcpus.length }
  },
  device: (device) => client.call('instance.device', { params: { ...params, device } }),
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { lacking } from './guests-offered.ts'

const host = (name: string, can: string[], cannot: { what: string; reason: string }[] = [], connected = true) => ({
  name,
  connected,
  guests: [{ architecture: 'x86_64' as const, can, cannot }],
})
const tpmless = { what: 'tpm', reason: 'no swtpm' }

test('what one of the hosts can is offered; of the one that was chosen, what it can itself', () => {
  const hosts = [host('one', ['bios'], [tpmless]), host('two', ['bios', 'tpm'])]
  assert.equal(lacking('tpm', hosts, ''), null)
  assert.equal(lacking('tpm', hosts, 'one'), 'no swtpm')
  assert.equal(lacking('tpm', hosts, 'two'), null)
})

test('a host that is away does not count, and one that says nothing may be able to', () => {
  assert.equal(lacking('tpm', [host('one', [], [tpmless]), host('two', ['tpm'], [], false)], ''), 'no swtpm')
  assert.equal(lacking('tpm', [host('one', [], [tpmless]), { name: 'old', connected: true, guests: [] }], ''), null)
  assert.equal(lacking('tpm', [], ''), null)
})

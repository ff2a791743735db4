import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isSshKey } from './ssh-key.ts'

const keyOf = (type: string, inner = type): string => {
  const name = Buffer.from(inner)
  const length = Buffer.alloc(4)
  length.writeUInt32BE(name.length)
  return `${type} ${Buffer.concat([length, name, Buffer.alloc(40, 7)]).toString('base64')}`
}

test('public keys of every kind are taken, with a comment or without', () => {
  for (const type of [
    'ssh-ed25519',
    'ssh-rsa',
    'ecdsa-sha2-nistp256',
    'sk-ssh-ed25519@openssh.com',
    'ssh-ed25519-cert-v01@openssh.com',
  ]) {
    assert.ok(isSshKey(keyOf(type)), type)
    assert.ok(isSshKey(`${keyOf(type)} Ada Lovelace, laptop`), type)
  }
  assert.ok(
    isSshKey('ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl user@example'),
    'one that ssh-keygen made',
  )
})

test('what is no key is not taken: options, a private key, a cut one, another type inside, two in one line', () => {
  const good = keyOf('ssh-ed25519')
  for (const text of [
    '',
    'ssh-ed25519',
    'ssh-ed25519 AAAA',
    'nonsense',
    `command="reboot" ${good}`,
    `no-pty,${good}`,
    '-----BEGIN OPENSSH PRIVATE KEY-----',
    good.slice(0, -1),
    good.slice(0, 27),
    keyOf('ssh-ed25519', 'ssh-rsa'),
    keyOf('ssh-ed25519', ''),
    `${good}\n${good}`,
    `${good} a\rb`,
    ` ${good}`,
    good.replace(' ', '  '),
    keyOf('ssh-ed25519', `ssh-ed25519${'x'.repeat(5)}`),
  ])
    assert.equal(isSshKey(text), false, JSON.stringify(text))
})

/**
 * Public keys as `authorized_keys` has them, of one line: type, base64, comment (sshd(8), AUTHORIZED_KEYS FILE FORMAT). Options before the
 * type are refused: they run commands. The base64 begins with the type's own name once more (RFC 4253 section 6.6), so that a key that was
 * cut, or two that were glued together, are seen here and not by whoever cannot sign in to the guest.
 */
export const SSH_KEY_WANT = 'one line of an OpenSSH public key: type, base64, comment, such as ssh-ed25519 AAAA... you@laptop'

const SHAPE = /^((?:ssh-|ecdsa-|sk-)[a-z0-9@.-]{1,64}) ([A-Za-z0-9+/]{16,16384}={0,2})(?: [^\p{Cc}\u2028\u2029]{0,1024})?$/u

export function isSshKey(text: string): boolean {
  const [, type, encoded] = SHAPE.exec(text) ?? []
  if (type === undefined || encoded === undefined || encoded.length % 4 !== 0) return false
  const blob = atob(encoded)
  const nameLength = [0, 1, 2, 3].reduce((value, at) => value * 256 + blob.charCodeAt(at), 0)
  return nameLength === type.length && blob.startsWith(type, 4) && blob.length > 4 + type.length
}

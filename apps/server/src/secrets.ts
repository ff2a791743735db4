/** What identity asks of cryptography, by node:crypto: argon2id (RFC 9106) on the thread pool, SHA-256, constant-time comparison. */
import { argon2, createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { Fault } from '@typevisor/base'
import { formatPhc, parsePhc, type ArgonParameters, type PasswordHasher, type SecretCrypto } from '@typevisor/identity'

/** OWASP's second choice of equal strength (19 MiB, 2 passes): 28 ms here, and a burst of sign-ins stays within memory. */
export const ARGON_PARAMETERS: ArgonParameters = { memoryKib: 19_456, passCount: 2, laneCount: 1 }
const SALT_BYTES = 16
const HASH_BYTES = 32

export interface HasherOptions {
  readonly parameters?: ArgonParameters
  /** How many may be computed at once: each takes a thread of the pool of four that files use too. */
  readonly parallelCountMax?: number
  readonly waitingCountMax?: number
}

export function argonHasher(options: HasherOptions = {}): PasswordHasher {
  const parameters = options.parameters ?? ARGON_PARAMETERS
  const parallelCountMax = options.parallelCountMax ?? 2
  const waitingCountMax = options.waitingCountMax ?? 64
  const waiting: (() => void)[] = []
  let running = 0

  async function bounded<T>(work: () => Promise<T>): Promise<T> {
    if (running >= parallelCountMax) {
      if (waiting.length >= waitingCountMax) throw new Fault('busy', 'sign in: too many passwords are being checked, try again')
      await new Promise<void>((resolve) => waiting.push(resolve))
    } else running += 1
    try {
      return await work()
    } finally {
      // The place is handed on, so that nobody new slips in between.
      const next = waiting.shift()
      if (next) next()
      else running -= 1
    }
  }

  const compute = (
    password: string,
    salt: Uint8Array,
    { memoryKib, passCount, laneCount }: ArgonParameters,
    hashBytes: number,
  ): Promise<Uint8Array> =>
    bounded(
      () =>
        new Promise((resolve, reject) => {
          const message = Buffer.from(password.normalize('NFKC'))
          argon2(
            'argon2id',
            { message, nonce: salt, memory: memoryKib, passes: passCount, parallelism: laneCount, tagLength: hashBytes },
            (error, hash) => (error ? reject(error) : resolve(hash)),
          )
        }),
    )

  return {
    async hash(password) {
      const salt = randomBytes(SALT_BYTES)
      return formatPhc({ ...parameters, salt, hash: await compute(password, salt, parameters, HASH_BYTES) })
    },
    async verify(password, passwordHash) {
      const phc = parsePhc(passwordHash)
      if (!phc) throw new Fault('internal', 'account: the stored password hash is not argon2id')
      return timingSafeEqual(await compute(password, phc.salt, phc, phc.hash.length), phc.hash)
    },
    outdated(passwordHash) {
      const phc = parsePhc(passwordHash)
      return (
        phc?.memoryKib !== parameters.memoryKib ||
        phc.passCount !== parameters.passCount ||
        phc.laneCount !== parameters.laneCount
      )
    },
  }
}

export const nodeSecretCrypto: SecretCrypto = {
  sha256: (content) => createHash('sha256').update(content).digest(),
  hmacSha256: (key, content) => createHmac('sha256', key).update(content).digest(),
  equal: (a, b) => a.length === b.length && timingSafeEqual(a, b),
}

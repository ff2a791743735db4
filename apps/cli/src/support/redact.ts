/**
 * Takes secrets out of texts that are shown to others. Two ways, since either alone misses some: values that this machine's own files and
 * environment hold are replaced wherever they stand; and what looks like a secret is replaced whatever it is.
 */

const GONE = '[redacted]'
/** Shorter ones would take away what is no secret. */
const LENGTH_MIN = 6

const KEYS =
  'password|passwd|secret|token|authorization|cookie|csrf\\w*|user[-_]?data|ssh[-_]?(?:authorized[-_]?)?keys?|private[-_]?key|credentials?|api[-_]?key'
const PATTERNS: readonly (readonly [RegExp, string])[] = [
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g, GONE],
  // The platform's own: API tokens, those of hosts, of this machine.
  [/\btv[a-z]_[\w-]+/g, GONE],
  [/\b(?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-\S+|sk-\S+@openssh\.com)\s+[A-Za-z0-9+/=]{16,}(?: [^\s"'\\]+)?/g, GONE],
  [/\b(bearer|basic)\s+[\w.~+/=-]+/gi, `$1 ${GONE}`],
  [/(\b[a-z][a-z0-9+.-]*:\/\/[^\s:@/"']*):[^\s@"']+@/gi, `$1:${GONE}@`],
  // JSON, where the value is a text, a list of texts, or an escaped text.
  [new RegExp(`("(?:[\\w-]*(?:${KEYS}))"\\s*:\\s*)(?:"(?:[^"\\\\]|\\\\.)*"|\\[[^\\]]*\\])`, 'gi'), `$1"${GONE}"`],
  // `password: x`, `TOKEN=x`, `--password x`.
  [new RegExp(`((?:^|[\\s,;{&?])[\\w.-]*(?:${KEYS})\\w*\\s*[=:]\\s*)(?!")\\S+`, 'gim'), `$1${GONE}`],
  [new RegExp(`(--(?:${KEYS})\\s+)(?!-)\\S+`, 'gi'), `$1${GONE}`],
]

/** `known`: secrets of this machine, whole. */
export function redactor(known: readonly string[]): (text: string) => string {
  const values = [...new Set(known.map((value) => value.trim()))]
    .filter((value) => value.length >= LENGTH_MIN)
    .toSorted((one, other) => other.length - one.length)
  return (text) => {
    let clean = text
    for (const value of values) clean = clean.replaceAll(value, GONE)
    for (const [pattern, by] of PATTERNS) clean = clean.replaceAll(pattern, by)
    return clean
  }
}

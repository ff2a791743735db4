/** Which server, and as whom: `TYPEVISOR_URL` and `TYPEVISOR_TOKEN`, else the credentials file that the server left in `TYPEVISOR_DATA`. */
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Fault } from '@typevisor/base'

export interface Connection {
  readonly url: string
  readonly token: string
  /** The server's own certificate (PEM), when it speaks TLS and we know it by the credentials file. */
  readonly certificate?: string | undefined
}

/** As root a place that other users can search, so that guests run without root's rights; else the user's own. */
export function defaultDataDir(env: NodeJS.ProcessEnv): string {
  if (process.geteuid?.() === 0) return '/var/lib/typevisor'
  return join(env['XDG_DATA_HOME'] ?? join(env['HOME'] ?? '/', '.local/share'), 'typevisor')
}
export const dataDirOf = (env: NodeJS.ProcessEnv): string => env['TYPEVISOR_DATA'] ?? defaultDataDir(env)

/** What a shell must be told before the command line finds a platform on this data directory; null when it finds it anyway. */
export function tellShell(dataDir: string, env: NodeJS.ProcessEnv): string | null {
  const path = resolve(dataDir)
  if (path === resolve(dataDirOf(env))) return null
  return `export TYPEVISOR_DATA=${/^[\w./@%+:,-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`}`
}

/** @throws Fault `unavailable` naming what was looked for. */
export function connection(env: NodeJS.ProcessEnv): Connection {
  const url = env['TYPEVISOR_URL']
  const token = env['TYPEVISOR_TOKEN']
  if (url !== undefined && token !== undefined) return { url, token }
  const path = join(dataDirOf(env), 'credentials.json')
  let content: string
  try {
    content = readFileSync(path, 'utf8')
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const why = code === 'ENOENT' ? 'no server runs on this data directory' : `it cannot be read (${code})`
    throw new Fault(
      'unavailable',
      `${path}: ${why}; start one with \`npm start\`, or set TYPEVISOR_DATA, or TYPEVISOR_URL and TYPEVISOR_TOKEN`,
      { cause: error },
    )
  }
  const kept = JSON.parse(content) as { url: string; token: string; certificate?: string } // the server wrote it, whole, by a rename
  // The kept token is for the server that made it, and is shown to no other.
  if (url !== undefined && url.replace(/\/+$/, '') !== kept.url && token === undefined) {
    throw new Fault(
      'invalid',
      `TYPEVISOR_URL is ${url}, and the credentials in ${path} are of ${kept.url}; set TYPEVISOR_TOKEN too`,
    )
  }
  const own = url === undefined || url.replace(/\/+$/, '') === kept.url
  return { url: url ?? kept.url, token: token ?? kept.token, certificate: own ? kept.certificate : undefined }
}

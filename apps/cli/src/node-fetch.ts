/**
 * `fetch` for one short request on a plain socket. Loading `node:http` takes 27 ms and Node's own `fetch` more, of the 80 ms that a command
 * may take above an empty process; `node:net` takes 3. One request, one connection: what is left of HTTP/1.1 (RFC 9112) is a status line,
 * headers, and a body by length, by chunks or to the end. Streams go to Node's own, TLS to `node:https`.
 */
import { connect } from 'node:net'

interface RawReply {
  readonly status: number
  readonly headers: ReadonlyMap<string, string>
  readonly body: Buffer
}

const HEAD_END = '\r\n\r\n'

/** @throws TypeError for what is no HTTP reply, or one cut short. */
export function parseReply(content: Buffer): RawReply {
  const cut = () => new TypeError('fetch failed: the reply was cut short')
  const end = content.indexOf(HEAD_END)
  if (end === -1) throw cut()
  const [statusLine = '', ...lines] = content.subarray(0, end).toString('latin1').split('\r\n')
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(statusLine)?.[1] ?? Number.NaN)
  if (Number.isNaN(status))
    throw new TypeError(`fetch failed: got ${JSON.stringify(statusLine.slice(0, 60))}, want an HTTP reply`)
  const headers = new Map(
    lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
  )
  const rest = content.subarray(end + HEAD_END.length)
  if (headers.get('transfer-encoding') === 'chunked') return { status, headers, body: joinChunks(rest, cut) }
  const length = headers.get('content-length')
  if (length !== undefined && rest.length < Number(length)) throw cut()
  return { status, headers, body: length === undefined ? rest : rest.subarray(0, Number(length)) }
}

function joinChunks(content: Buffer, cut: () => TypeError): Buffer {
  const parts: Buffer[] = []
  for (let at = 0; ;) {
    const lineEnd = content.indexOf('\r\n', at)
    const size = lineEnd === -1 ? Number.NaN : Number.parseInt(content.subarray(at, lineEnd).toString('latin1'), 16)
    if (Number.isNaN(size) || lineEnd + 2 + size > content.length) throw cut()
    if (size === 0) return Buffer.concat(parts)
    parts.push(content.subarray(lineEnd + 2, lineEnd + 2 + size))
    at = lineEnd + 2 + size + 2
  }
}

async function exchange(url: URL, head: string, body: string, signal: AbortSignal | null | undefined): Promise<RawReply> {
  const { promise, resolve, reject } = Promise.withResolvers<RawReply>()
  const socket = connect({
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: Number(url.port || 80),
    ...(signal ? { signal } : {}),
  })
  const parts: Buffer[] = []
  socket.on('data', (part) => parts.push(part))
  socket.on('error', (error) => reject(signal?.aborted ? signal.reason : new TypeError('fetch failed', { cause: error })))
  socket.on('close', () => {
    try {
      resolve(parseReply(Buffer.concat(parts)))
    } catch (error) {
      reject(error)
    }
  })
  // Not ended: a server takes a closed half for a client that has gone away.
  socket.write(`${head}\r\n${body}`)
  return promise
}

/**
 * TLS options that trust one certificate and nothing else, by whatever name the server is called: it was read from a file that only the
 * server's own user can write.
 */
export const pinned = (certificate: string | undefined) =>
  certificate === undefined ? {} : { ca: certificate, allowPartialTrustChain: true, checkServerIdentity: () => undefined }

/** Only what the client of this project asks of a Response. */
const response = (reply: RawReply, url: URL): Response => {
  const text = reply.body.toString()
  return {
    ok: reply.status >= 200 && reply.status < 300,
    status: reply.status,
    url: url.href,
    headers: { get: (name: string) => reply.headers.get(name.toLowerCase()) ?? null },
    text: async () => text,
    json: async () => JSON.parse(text) as unknown,
  } as unknown as Response
}

/** By TLS, with the server's certificate known; its body may be a stream. */
async function secureFetch(url: URL, init: RequestInit | undefined, certificate: string | undefined): Promise<Response> {
  const [{ request }, { Readable }] = await Promise.all([import('node:https'), import('node:stream')])
  const { promise, resolve, reject } = Promise.withResolvers<import('node:http').IncomingMessage>()
  const sent = request(
    url,
    {
      method: init?.method ?? 'GET',
      headers: (init?.headers ?? {}) as Record<string, string>,
      ...(init?.signal ? { signal: init.signal } : {}),
      ...pinned(certificate),
    },
    resolve,
  )
  sent.on('error', (error) =>
    reject(init?.signal?.aborted ? init.signal.reason : new TypeError('fetch failed', { cause: error })),
  )
  sent.end(init?.body === undefined || init.body === null ? undefined : String(init.body))
  const incoming = await promise
  const headers = new Map(Object.entries(incoming.headers).map(([name, value]) => [name, String(value)]))
  const status = incoming.statusCode ?? 0
  if (headers.get('content-type')?.startsWith('text/event-stream')) {
    return new Response(Readable.toWeb(incoming) as ReadableStream<Uint8Array>, { status })
  }
  const parts: Buffer[] = []
  for await (const part of incoming) parts.push(part as Buffer)
  return response({ status, headers, body: Buffer.concat(parts) }, url)
}

/** `fetch` for a server whose certificate may be known by itself. */
export const fetchFor =
  (certificate: string | undefined): typeof fetch =>
  async (input, init) => {
    const url = new URL(String(input))
    if (url.protocol === 'https:') return secureFetch(url, init, certificate)
    return plainFetch(url, init)
  }

async function plainFetch(url: URL, init: RequestInit | undefined): Promise<Response> {
  const headers = (init?.headers ?? {}) as Record<string, string>
  if (headers['accept'] === 'text/event-stream') return fetch(url, init)
  const body = init?.body === undefined || init.body === null ? '' : String(init.body)
  const all = {
    host: url.host,
    connection: 'close',
    ...headers,
    ...(body === '' ? {} : { 'content-length': String(Buffer.byteLength(body)) }),
  }
  // A line break in a value would begin a header of its own.
  for (const value of Object.values(all)) if (/[\r\n]/.test(value)) throw new TypeError('fetch failed: a header has a line break')
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}`)
  const head = [`${init?.method ?? 'GET'} ${url.pathname}${url.search} HTTP/1.1`, ...lines, ''].join('\r\n')
  return response(await exchange(url, head, body, init?.signal), url)
}

export const nodeFetch: typeof fetch = fetchFor(undefined)

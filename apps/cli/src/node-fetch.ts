/**
 * `fetch` for short requests by node:http. Node's own loads its whole HTTP client at the first use, which costs more than a short
 * command takes: measured 25 ms of the 80 ms that a command may take above an empty process. Streams go to Node's own.
 */
import { request as httpRequest, type IncomingMessage } from 'node:http'

export const nodeFetch: typeof fetch = async (input, init) => {
  const url = String(input)
  const headers = (init?.headers ?? {}) as Record<string, string>
  if (headers['accept'] === 'text/event-stream') return fetch(input, init)
  const doRequest = url.startsWith('https:') ? (await import('node:https')).request : httpRequest
  const body = init?.body === undefined || init.body === null ? undefined : String(init.body)
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
  const request = doRequest(
    url,
    {
      method: init?.method ?? 'GET',
      headers: { ...headers, ...(body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }) },
      ...(init?.signal ? { signal: init.signal } : {}),
    },
    resolve,
  )
  request.on('error', (error) => reject(new TypeError(`fetch failed: ${error.message}`, { cause: error })))
  request.end(body)
  const response = await promise
  const parts: Buffer[] = []
  for await (const part of response) parts.push(part as Buffer)
  const text = Buffer.concat(parts).toString()
  const status = response.statusCode ?? 0
  // Only what the client of this project asks of a Response.
  return {
    ok: status >= 200 && status < 300,
    status,
    headers: { get: (name: string) => response.headers[name.toLowerCase()] ?? null },
    text: async () => text,
    json: async () => JSON.parse(text) as unknown,
  } as unknown as Response
}

/** Bodies are JSON in UTF-8 or they are refused, with the reason and the place. */
import { Fault } from '@typevisor/base'

const utf8 = new TextDecoder('utf-8', { fatal: true })

const refuse = (want: string, got: string, cause?: unknown): Fault =>
  new Fault('invalid', `body: got ${got}, want ${want}`, {
    details: [{ path: 'body', want, got }],
    ...(cause === undefined ? {} : { cause }),
  })

/** No body at all is undefined. @throws Fault `invalid`. */
export function parseJsonBody(content: Uint8Array): unknown {
  if (content.length === 0) return undefined
  let text: string
  try {
    text = utf8.decode(content)
  } catch (error) {
    throw refuse('UTF-8', 'bytes that are none', error)
  }
  try {
    return JSON.parse(text)
  } catch (error) {
    // V8 names the place; the text that it quotes may hold a secret.
    const place =
      error instanceof Error
        ? (/at position \d+(?: \(line \d+ column \d+\))?/.exec(error.message)?.[0] ?? 'at its end')
        : 'somewhere'
    throw refuse('JSON', `something else ${place}`, error)
  }
}

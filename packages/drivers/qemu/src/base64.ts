/** RFC 4648 section 4, through the web platform's functions (V8's own `toBase64` is not in Node 24). */
const PIECE = 32768

export function toBase64(content: Uint8Array): string {
  let binary = ''
  for (let at = 0; at < content.length; at += PIECE) binary += String.fromCharCode(...content.subarray(at, at + PIECE))
  return btoa(binary)
}

/** null: not base64. */
export function fromBase64(text: string): Uint8Array | null {
  try {
    const binary = atob(text)
    const content = new Uint8Array(binary.length)
    for (let at = 0; at < content.length; at += 1) content[at] = binary.charCodeAt(at)
    return content
  } catch {
    return null
  }
}

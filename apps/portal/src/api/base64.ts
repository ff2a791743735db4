/** Bytes as JSON carries them. */

export const fromBase64 = (text: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(text), (character) => character.charCodeAt(0))

/** So many arguments a function takes in every browser. */
const ARGUMENT_COUNT = 32_768

export function toBase64(content: Uint8Array): string {
  let text = ''
  for (let at = 0; at < content.length; at += ARGUMENT_COUNT)
    text += String.fromCharCode(...content.subarray(at, at + ARGUMENT_COUNT))
  return btoa(text)
}

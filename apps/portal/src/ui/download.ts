const KEPT_MS = 60_000

/** Hands bytes to the browser as a file. */
export function download(content: Uint8Array<ArrayBuffer>, name: string, type = 'application/octet-stream'): void {
  const url = URL.createObjectURL(new Blob([content], { type }))
  const link = document.createElement('a')
  link.href = url
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), KEPT_MS)
}

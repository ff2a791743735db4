/** A file tree as a value: what an initramfs or a root disk holds, before it becomes an archive or a file system. Owner is always root. */
import { Fault } from '@typevisor/base'

export type TreeEntry =
  | { readonly kind: 'folder'; readonly mode: number }
  | { readonly kind: 'file'; readonly mode: number; readonly content: Uint8Array }
  | { readonly kind: 'link'; readonly target: string }
  | { readonly kind: 'character-device'; readonly mode: number; readonly major: number; readonly minor: number }

/** Relative paths without `.` or `..`, such as `etc/passwd`, to what is there. */
export type Tree = ReadonlyMap<string, TreeEntry>

const PATH = /^(?!\.{1,2}(?:\/|$))[^/\0\n]+(?:\/(?!\.{1,2}(?:\/|$))[^/\0\n]+)*$/

export class TreeBuilder {
  readonly #entries = new Map<string, TreeEntry>()

  /** Parents are made as needed, with mode 0755; a later entry replaces an earlier one. @throws Fault `invalid` for a path that leaves the tree. */
  add(path: string, entry: TreeEntry): this {
    if (!PATH.test(path))
      throw new Fault('invalid', `tree path: got ${JSON.stringify(path)}, want a relative path without . and ..`)
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1)) {
      const parent = path.slice(0, slash)
      const there = this.#entries.get(parent)
      if (there === undefined) this.#entries.set(parent, { kind: 'folder', mode: 0o755 })
      else if (there.kind !== 'folder')
        throw new Fault('invalid', `tree path ${path}: ${parent} is a ${there.kind}, want a folder`)
    }
    this.#entries.set(path, entry)
    return this
  }
  file(path: string, content: string | Uint8Array, mode = 0o644): this {
    return this.add(path, {
      kind: 'file',
      mode,
      content: typeof content === 'string' ? new TextEncoder().encode(content) : content,
    })
  }
  folder(path: string, mode = 0o755): this {
    return this.add(path, { kind: 'folder', mode })
  }
  link(path: string, target: string): this {
    return this.add(path, { kind: 'link', target })
  }
  has(path: string): boolean {
    return this.#entries.has(path)
  }
  /** Sorted by path (code units), so parents come first and equal trees are equal byte for byte. */
  build(): Tree {
    return new Map([...this.#entries].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
  }
}

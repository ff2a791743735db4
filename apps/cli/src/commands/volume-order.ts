/** Volumes by name, the snapshots of each behind it, oldest first. */
interface Listed {
  readonly name: string
  /** In milliseconds since 1970. Left out: by name. */
  readonly createdAt?: number
}

const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

export const inOrder = <T extends Listed>(items: readonly T[]): T[] =>
  items.toSorted((a, b) => {
    const [[volume = '', snapshot], [otherVolume = '', otherSnapshot]] = [a.name.split('@'), b.name.split('@')]
    return (
      compareText(volume, otherVolume) ||
      Number(snapshot !== undefined) - Number(otherSnapshot !== undefined) ||
      (a.createdAt ?? 0) - (b.createdAt ?? 0) ||
      compareText(a.name, b.name)
    )
  })

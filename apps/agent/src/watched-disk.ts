/**
 * A disk that tells when a sync failed. What the kernel then dropped is unknown to this process for good; only reading the file again
 * tells ("Can Applications Recover from fsync Failures?", USENIX ATC 2020), so whoever is told ends the process and starts anew.
 */
import type { AppendFile, Disk } from '@typevisor/base'

export function watchedDisk(disk: Disk, onSyncFailed: (error: unknown) => void): Disk {
  const told = <T>(work: Promise<T>): Promise<T> => {
    work.catch(onSyncFailed)
    return work
  }
  const watchedFile = (file: AppendFile): AppendFile => ({
    get sizeBytes() {
      return file.sizeBytes
    },
    append: (content) => file.append(content),
    sync: () => told(file.sync()),
    truncate: (sizeBytes) => file.truncate(sizeBytes),
    close: () => file.close(),
  })
  return {
    read: (name) => disk.read(name),
    open: async (name) => watchedFile(await disk.open(name)),
    replace: (name, content) => disk.replace(name, content),
    remove: (name) => disk.remove(name),
    list: () => disk.list(),
  }
}

/**
 * A whole guest in one boot sector, for tests that need a real processor and no operating system: it is up 0.3 s after the first
 * instruction, even under TCG. The image is 1 MiB of raw disk.
 *
 * On the serial port: "boot", then a counter as eight hexadecimal digits a line, one per timer tick (18 a second). It reads commands:
 *   q power off (ACPI)   r reset   x panic (pvpanic)   f count with no pause   w write a sector to the disk, then "W"   others: echo
 * It powers off when the power button is pressed. The counter is in memory: it goes on after a restore, and begins anew at a boot.
 *
 * Assembled with GNU as (.code16) from:
 *   start: cli; ax = ds = ss = 0; sp = 0x7c00; sti; dword [0x600] = 0; byte [0x604] = 0
 *          out 0x602, 0x100 (PM1 enable: power button); print "boot"
 *   main:  in 0x600 (PM1 status), bit 8 -> off; in 0x3fd (line status), bit 0: in 0x3f8 -> command; else tick
 *   tick:  print dword [0x600] in hexadecimal; newline; [0x600] += 1; hlt unless [0x604]; main
 *   off:   out 0x604, 0x2000 (PM1 control: S5)   reset: out 0xcf9, 6   panic: out 0x505, 1   write: int 0x13, ah = 0x43, sector 64
 */
const CODE = [
  'fa31c08ed88ed0bc007cfb66c706000600000000c606040600ba0206b80001efbece7cac84c07405e89200ebf6ba0006edf6c401756dbafd',
  '03eca8017434baf803ec3c71745d3c7274623c7874663c66741b3c777405e86400ebd2bed47cb280b443b000cd13b057e85200ebc0c60604',
  '0601668b1e0006b9080066c1c30488d8240f3c0a720204270430e83000e2ebb00ae8290066ff060006803e040600758df4eb8aba0406b800',
  '20efeb0ebaf90cb006eeeb06ba0505b001eef4ebfd5250bafd03eca82074fb58baf803ee5ac3626f6f740a0010000100007c000040',
].join('')

const DISK_SIZE = 1024 * 1024

/**
 * Another one, which never rests: it adds one to a word of each of its 128 pages from 64 KiB to 576 KiB, round and round, and never lets go
 * of a translation. On the serial port: `.` after 4096 rounds, and `X` for each page that has not the count of all, which it is given.
 *
 * Assembled likewise:
 *   start: cli; ax = ds = ss = 0; sp = 0x7c00; word [page:0] = 0 of each page; dx = 0
 *   round: dx += 1; of each page: word [page:0] += 1, and unless it is dx: print "X", word [page:0] = dx; unless dx & 0xfff: print "."; round
 */
const SWEEP = [
  'fa31c08ed0bc007c8ed8bb00108ec326c7060000000081c3000181fb009075ed31d231ff42bb00108ec326ff0600002639160000751781c3',
  '000181fb009075e8f7c2ff0f75deb02ee81800ebd7b058e81100268916000081c3000181fb009075c7ebc152baf803ee5ac3',
].join('')

export const tinyGuestDisk = (): Uint8Array => bootSector(CODE)
export const sweepingGuestDisk = (): Uint8Array => bootSector(SWEEP)

function bootSector(code: string): Uint8Array {
  const disk = new Uint8Array(DISK_SIZE)
  for (let at = 0; at < code.length / 2; at += 1) disk[at] = Number.parseInt(code.slice(at * 2, at * 2 + 2), 16)
  disk.set([0x55, 0xaa], 510)
  return disk
}

/** A few real kills of the volume server, and of the guest. Needs: apt's archive (first time), qemu-system-x86. */
import { rm } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import { missingQemu, type ToolGuest } from '@typevisor/image/testing'
import { toldWith } from '@typevisor/sim/testing'
import { temporaryFolder } from './harness.ts'
import { killGuest, killsUnderFio } from './volume-kills.ts'

describe('a volume server that is killed under a guest', { skip: missingQemu() }, () => {
  let folder: string
  let guest: ToolGuest
  before(async () => {
    folder = await temporaryFolder()
    guest = await killGuest(folder)
  })
  after(() => rm(folder, { recursive: true, force: true }))

  for (const fileSystem of ['ext4', 'xfs'] as const)
    test(`the guest sees a pause and no error, and what was fsynced is there after its power cut: ${fileSystem}`, async () => {
      const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
      await toldWith(`SEED=${seed} npm test -- volume-kills`, () => killsUnderFio(guest, { fileSystem, seed, killCount: 3 }))
    })
})

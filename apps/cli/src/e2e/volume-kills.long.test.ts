/** A hundred real kills of the volume server under a guest, and ten of guests. */
import { rm } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import { missingQemu, type ToolGuest } from '@typevisor/image/testing'
import { temporaryFolder } from './harness.ts'
import { killGuest, killsUnderFio } from './volume-kills.ts'

describe('a volume server that is killed a hundred times under guests', { skip: missingQemu() }, () => {
  let folder: string
  let guest: ToolGuest
  before(async () => {
    folder = await temporaryFolder()
    guest = await killGuest(folder)
  })
  after(() => rm(folder, { recursive: true, force: true }))

  for (const fileSystem of ['ext4', 'xfs'] as const)
    for (let seed = 1; seed <= 5; seed += 1)
      test(`${fileSystem}, seed ${seed}: no error in the guest, and what was fsynced is there after its power cut`, () =>
        killsUnderFio(guest, { fileSystem, seed, killCount: 10 }))
})

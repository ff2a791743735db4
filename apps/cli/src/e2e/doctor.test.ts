/** `doctor` says for each thing that is wrong how it is mended, to people and to programs. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Finding } from '../commands/doctor.ts'
import { machine, run } from './child.ts'

const findings = (said: string): Finding[] => JSON.parse(said) as Finding[]

test('where nothing is wrong it says so; a host that is away and a platform that is gone are named with what to do', async () => {
  await using cloud = await machine()
  const env = { TYPEVISOR_DATA: cloud.dataDir }
  const life = await cloud.start('--driver', 'sim')
  const well = await run(['doctor', '--json'], env)
  assert.equal(well.code, 0, well.said)
  assert.ok(findings(well.said).every((finding) => finding.ok && finding.mend === null))
  await life.child.kill('SIGTERM')

  const gone = await run(['doctor', '--json'], env)
  assert.equal(gone.code, 1)
  const platform = findings(gone.said).find((finding) => finding.what === 'platform')
  assert.ok(platform && !platform.ok)
  assert.match(platform.mend ?? '', /npm start/)

  await cloud.start('--no-agent')
  const away = await run(['doctor'], env)
  assert.equal(away.code, 1, away.said)
  assert.match(
    away.said,
    /WRONG host local: its agent is not connected.*\n {6}mend: start the agent there: `typevisor agent --server/,
  )
})

test('every wrong finding has a mend: without QEMU and without a platform', async () => {
  await using cloud = await machine()
  const { code, said } = await run(['doctor', '--json'], { TYPEVISOR_DATA: join(cloud.dataDir, 'none'), PATH: '/nothing' })
  assert.equal(code, 1)
  const wrong = findings(said).filter((finding) => !finding.ok)
  assert.deepEqual(wrong.map((finding) => finding.what).toSorted(), ['platform', 'qemu-img', 'qemu-system-x86_64'])
  for (const { what, mend } of wrong) assert.ok(mend !== null && mend.length > 10, what)
  assert.equal((await run(['doctor', '--jsn'])).code, 2)
})

import { test } from 'node:test'
import { killLoop } from './kill-loop.ts'

const seed = Number(process.env['TYPEVISOR_SEED'] ?? 1 + Math.floor(Math.random() * 1_000_000))

test(`the platform killed in a loop while it works loses no guest, no operation and no byte (TYPEVISOR_SEED=${seed})`, async (t) => {
  await killLoop({ seed, roundCount: 7, say: (text) => t.diagnostic(text) })
})

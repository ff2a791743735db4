import { test } from 'node:test'
import { migrationKills } from './migration-kills.ts'

const seed = Number(process.env['TYPEVISOR_SEED'] ?? 1 + Math.floor(Math.random() * 1_000_000))

test(`whoever is killed while a guest moves, one host has it and it goes on (TYPEVISOR_SEED=${seed})`, async (t) => {
  await migrationKills({ seed, roundCount: 40, say: (text) => t.diagnostic(text) })
})

/**
 * The conformance suite as tests of Node's own runner. What it has shown of a driver is compared with `docs/conformance.json`, of which the
 * table in the docs is made; with `RECORD_CONFORMANCE=1` it is written there.
 */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { CallRecord } from './conformance-report.ts'
import { describeConformance, type DriverWorld } from './conformance.ts'

export { specOf, type DriverWorld } from './conformance.ts'

const RECORD = new URL('../../../docs/conformance.json', import.meta.url)

function compare(name: string, record: CallRecord): void {
  const known = JSON.parse(readFileSync(RECORD, 'utf8')) as Record<string, unknown>
  const found = Object.fromEntries(
    Object.entries(record.results()).map(([operation, result]) => [
      operation,
      result.kind === 'refused' ? { kind: result.kind, reason: result.reason } : { kind: result.kind },
    ]),
  )
  if (process.env['RECORD_CONFORMANCE']) writeFileSync(RECORD, `${JSON.stringify({ ...known, [name]: found }, null, 2)}\n`)
  else
    assert.deepEqual(found, known[name], `docs/conformance.json: RECORD_CONFORMANCE=1 npm test -- conformance; npm run generate`)
}

export function domainDriverConformance(name: string, makeWorld: () => Promise<DriverWorld>): void {
  const record = new CallRecord()
  describeConformance(name, makeWorld, {
    describe: (title, work) => {
      describe(title, () => {
        work()
        test('what it has shown is what the docs say, operation by operation', () => compare(name, record))
      })
    },
    before,
    after,
    test: (title, work) => void test(title, (t) => record.during(title, () => work(t))),
    observed: (driver) => record.observed(driver),
  })
}

/**
 * What a test run prints: a line for each file with what failed in it, then the plain closing line `N passed, N failed`. A file that
 * dies without a test to show for it counts as a failure.
 */
import { relative } from 'node:path'
import type { TestEvent } from 'node:test/reporters'

/** Node wraps what was thrown; what that was caused by says more than it does. */
function describe(error: Error): string {
  const thrown = error.cause instanceof Error ? error.cause : error
  const text = (each: Error): string => (each.stack ?? each.message).split('\n').slice(0, 40).join('\n    ')
  const causes: string[] = []
  for (let each = thrown.cause; each instanceof Error && causes.length < 5; each = each.cause) causes.push(text(each))
  return [text(thrown), ...causes].join('\n    caused by: ')
}

export default async function* report(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const total = { passed: 0, failed: 0, skipped: 0 }
  const cwd = process.cwd()
  for await (const event of source) {
    if (event.type === 'test:stderr' || event.type === 'test:stdout') {
      if (process.env['TYPEVISOR_TEST_OUTPUT']) yield event.data.message
      continue
    }
    if (event.type === 'test:pass' || event.type === 'test:fail') {
      const { data } = event
      // A suite, or the file itself, fails with what is in it; only tests count.
      const suite = data.details.type === 'suite'
      const file = data.file ?? 'unknown file'
      const wholeFile = data.nesting === 0 && (data.name === file || data.name === relative(cwd, file))
      if (wholeFile && event.type === 'test:pass') continue
      if (suite) continue
      if (event.type === 'test:pass') {
        const kind = data.skip !== undefined || data.todo !== undefined ? 'skipped' : 'passed'
        total[kind] += 1
        if (kind === 'skipped') yield `  skipped: ${data.name}: ${String(data.skip ?? data.todo)}\n`
      } else {
        const error = event.data.details.error
        if ((error as { failureType?: string }).failureType === 'subtestsFailed') continue
        total.failed += 1
        yield `\nFAILED ${relative(cwd, file)}: ${data.name}\n    ${describe(error)}\n\n`
      }
      continue
    }
    if (event.type === 'test:summary' && event.data.file !== undefined) {
      // Tests of a shared suite are placed where the suite is written; the file that ran them counts them.
      const { tests, passed, skipped, todo } = event.data.counts
      const bad = tests - passed - skipped - todo
      yield `${bad > 0 ? 'FAIL' : 'ok  '} ${relative(cwd, event.data.file)}: ${passed} passed, ${bad} failed${skipped > 0 ? `, ${skipped} skipped` : ''} (${(event.data.duration_ms / 1000).toFixed(1)} s)\n`
    }
  }
  if (total.passed + total.failed === 0) {
    total.failed = 1
    yield '\nFAILED: no test was run\n'
  }
  if (total.skipped > 0) yield `\n${total.skipped} skipped\n`
  // A test that cannot run where everything can be installed hides what it is for.
  if (total.skipped > 0 && process.env['CI']) {
    total.failed += total.skipped
    process.exitCode = 1
    yield `FAILED: in CI no test may be skipped\n`
  }
  yield `\n${total.passed} passed, ${total.failed} failed\n`
}

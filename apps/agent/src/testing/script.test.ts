/** That the script's own eyes see what is wrong: reports of pings in which something is, and a runner that leaves a step out. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Answer } from './pings.ts'
import { assertPings, STEPS, walk, type Eyes } from './script.ts'

const [OLD, NEW] = [1000, 2000]
const askedMs = Array.from({ length: 40 }, (_, question) => question * 50)
/** Asked 40 times; it moves from question 15 to question 20, and counts 10 a question. */
const moved: readonly Answer[] = askedMs.flatMap((atMs, question) =>
  question >= 15 && question < 20 ? [] : [{ question, port: question < 15 ? OLD : NEW, atMs, count: 10 * question }],
)
const changed = (at: number, change: Partial<Answer>) =>
  moved.map((answer, index) => (index === at ? { ...answer, ...change } : answer))

test('answers with one gap, in which the guest moved, are as they should be', () => {
  assert.match(
    assertPings({ askedMs, answers: moved }, NEW),
    /^35 answers, 5 lost in the one gap of 300 ms, by 60 counts; else at most 50 ms/,
  )
})

test('what must not be is seen', () => {
  const refused = (answers: readonly Answer[], message: RegExp) =>
    assert.throws(() => assertPings({ askedMs, answers }, NEW), { message })
  refused(changed(25, { port: OLD }), /the old host answers behind the new one/)
  refused([...moved, { question: 3, port: NEW, atMs: 2000, count: 400 }], /a question is answered twice/)
  refused(changed(20, { count: 3 }), /its count went back to 3/)
  refused(
    moved.filter(({ question }) => question !== 5),
    /questions without an answer, not between 14 and 20/,
  )
  refused(
    moved.filter(({ question }) => question !== 30),
    /questions without an answer/,
  )
  refused(
    moved.filter(({ port }) => port === OLD),
    /want of two ports/,
  )
  refused(
    moved.map((answer) => (answer.port === NEW ? { ...answer, atMs: answer.atMs + 60_000 } : answer)),
    /^it did not answer for 60300 ms/,
  )
  refused(
    moved.map((answer) => (answer.question >= 30 ? { ...answer, atMs: answer.atMs + 3000 } : answer)),
    /while it did not move it did not answer for 3050 ms/,
  )
})

test('a step that is left out, or done before its time, fails', async () => {
  const nobody = {} as Eyes // it is not looked through
  const [first, second] = STEPS
  assert.ok(first && second)
  await assert.rejects(walk(nobody).done(second), { message: /step 1 of the script/ })
  assert.throws(() => walk(nobody).over(), { message: /steps of the script that were not done/ })
})

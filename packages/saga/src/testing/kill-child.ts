/** The process that `kill.test.ts` kills: runs sagas that make files, until all are settled; then says on stdout how they ended. */
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault } from '@typevisor/base'
import { consoleLog, lockFile, nodeDisk, realClock } from '@typevisor/runtime-node'
import { defineSaga } from '../define.ts'
import { createSagaEngine } from '../engine.ts'
import { fileSagaStore } from '../file-store.ts'
import { sagaId, type StepContext } from '../ports.ts'
import { stateFile } from '../state-file.ts'

const [folder = '', sagaCount = '0'] = process.argv.slice(2)
const STEP_COUNT = 4

const clock = realClock()
const log = consoleLog({ level: 'warn', out: { write: () => {} } })
using _lock = lockFile(join(folder, 'lock'))
const state = stateFile({ disk: nodeDisk(join(folder, 'journal')), name: 'sagas', clock, log, compactBytesMin: 20_000 })
const counters = state.map<number>('counters')
const store = fileSagaStore({ state, clock })
await state.open()

type Context = StepContext<{ failsAt: number | null }, object>
const pathOf = ({ sagaId: id }: Context, step: number): string => join(folder, 'world', `${id}.${step}`)
const count = ({ sagaId: id }: Context, by: number) => ({
  effects: [{ kind: 'call' as const, run: () => void counters.set(id, (counters.get(id) ?? 0) + by) }],
})

const definition = defineSaga<{ failsAt: number | null }, object>({
  name: 'files',
  steps: Array.from({ length: STEP_COUNT }, (_, step) => ({
    name: `file-${step}`,
    do: async (context: Context) => {
      await writeFile(pathOf(context, step), String(context.fence))
      if (context.input.failsAt === step) throw new Fault('failed', 'as the input says')
      return { output: true, ...count(context, 1) }
    },
    undo: async (context: Context) => {
      await rm(pathOf(context, step), { force: true })
      return context.outputs[`file-${step}`] === true ? count(context, -1) : {}
    },
  })),
})

const engine = createSagaEngine({ store, sagas: [definition], services: {}, clock, log, owner: 'child', concurrencyMax: 8 })
await engine.start()
const ids = Array.from({ length: Number(sagaCount) }, (_, index) => sagaId(`saga-${index}`))
await Promise.all(
  ids.map((id, index) =>
    engine.submit({ id, name: 'files', resource: id, input: { failsAt: index % 3 === 0 ? index % STEP_COUNT : null } }),
  ),
)
process.stdout.write('submitted\n')
const records = await Promise.all(ids.map((id) => engine.wait(id)))
await engine.stop()
await state.close()
process.stdout.write(
  `${JSON.stringify(records.map((record) => ({ id: record.id, kind: record.state.kind, effects: counters.get(record.id) ?? 0, attempt: record.attempt })))}\n`,
)

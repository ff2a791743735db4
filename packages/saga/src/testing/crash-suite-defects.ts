/** Sagas that work when nothing happens, each with a defect that the crash suite must find. Run by `crash-suite.test.ts`. */
import { defineSaga } from '../define.ts'
import { sagaCrashSuite } from '../testing.ts'

interface World {
  count: number
  readonly made: string[]
}

const DEFECTS = {
  /** Not safe to run twice. */
  double: defineSaga<object, World>({
    name: 'defect',
    steps: [
      {
        name: 'count',
        do: async ({ services }) => void (services.count += 1),
        undo: async ({ services }) => void (services.count = 0),
      },
    ],
  }),
  /** The failed step itself is not undone. */
  leak: defineSaga<object, World>({
    name: 'defect',
    steps: [
      {
        name: 'make',
        do: async ({ services }) => {
          if (!services.made.includes('it')) services.made.push('it')
          return { output: 'it' }
        },
        undo: async ({ services, outputs }) => {
          const at = services.made.indexOf(String(outputs['make']))
          if (at >= 0) services.made.splice(at, 1)
        },
      },
    ],
  }),
  /** An undo that only works once. */
  order: defineSaga<object, World>({
    name: 'defect',
    steps: [
      {
        name: 'push',
        do: async ({ services }) => void (services.made[0] = 'first'),
        undo: async ({ services }) => {
          if (services.made.pop() === undefined) throw new Error('nothing to undo')
        },
      },
    ],
  }),
}

const defect = process.argv[2] as keyof typeof DEFECTS
sagaCrashSuite({
  definition: DEFECTS[defect],
  input: {},
  seedCount: 3,
  setup: async () => {
    const services: World = { count: 0, made: [] }
    return { services, snapshot: () => structuredClone(services) }
  },
})

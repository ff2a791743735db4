export { promtoolSays } from './metrics/promtool.ts'
export { clientEyes } from './testing/client-eyes.ts'
export {
  assertPings,
  INSTANCE,
  SCRIPT,
  STEPS,
  walk,
  whyNoScript,
  type DomainLook,
  type Eyes,
  type HostName,
  type StepName,
  type Walk,
} from './testing/script.ts'

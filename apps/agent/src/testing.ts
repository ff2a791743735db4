export { promtoolSays } from './metrics/promtool.ts'

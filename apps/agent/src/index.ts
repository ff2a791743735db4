/**
 * The agent: one per host, it acts. It owns the host's toolstack and images and does what a server asks, by `AgentPort`; whether the
 * server is in the same process or at the end of a WebSocket (`uplink.ts`) makes no difference.
 *
 *   server --command(id, fence)--> AgentService --> Toolstack --> driver --> guests (outlive us)
 *                                      \--> ImageStore
 *
 * What it must not forget is in its own journal (`DATA/agent`); SIGKILL at any time loses no guest, no command and no event.
 */
export { openHost, type Host } from './host.ts'
export type { HostOptions, HostParts } from './host-parts.ts'
export { agentLinks } from './migration/links.ts'
export { messageSocket } from './message-socket.ts'
export {
  Counter,
  EXPOSITION_TYPE,
  exposition,
  Histogram,
  type Labels,
  type MetricFamily,
  type MetricSample,
} from './metrics/exposition.ts'
export { hostFamilies, processFamilies, type CountedHost } from './metrics/host-metrics.ts'
export { serveMetrics, type MetricsListener } from './metrics/listener.ts'
export { createAgentService } from './service.ts'
export { toAgentImage } from './shared-builds.ts'
export { keepJoined, type UplinkOptions } from './uplink.ts'

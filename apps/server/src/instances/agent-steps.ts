/** What the steps of an instance's operations share: the agent of its host, waited for, and what is told of a failure. */
import type { FaultJson, Json } from '@typevisor/base'
import type { AgentPort } from '@typevisor/api/agent-wire'
import type { AgentRegistry } from '../agents/registry.ts'

/** How long a step waits for an agent that is away before it counts as an attempt. */
const AGENT_AWAY_LIMIT_MS = 30_000
export const AWAY_ATTEMPTS = 20

interface OfStep {
  readonly services: { readonly agents: AgentRegistry }
  readonly signal: AbortSignal
}

/** @throws Fault `unavailable` when it stays away. */
export const agentOf = ({ services, signal }: OfStep, host: string): Promise<AgentPort> =>
  services.agents.need(host, AGENT_AWAY_LIMIT_MS, signal)

export const failure = (verb: string, operation: string, { code, message }: FaultJson): Record<string, Json> => ({
  verb,
  operation,
  code,
  message,
})

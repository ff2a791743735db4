import type { Command } from './terminal.ts'

/** Commands that are not operations of the API; each is loaded when it is asked for. */
export const COMMANDS: Readonly<Record<string, { summary: string; load: () => Promise<Command> }>> = {
  start: { summary: 'Start the platform on this machine', load: async () => (await import('./commands/start.ts')).start },
  agent: {
    summary: 'Run the agent of a host for a server elsewhere',
    load: async () => (await import('./commands/agent.ts')).agent,
  },
  down: {
    summary: 'Stop the platform; guests go on (--guests stops them too)',
    load: async () => (await import('./commands/down.ts')).down,
  },
  install: {
    summary: 'Set up server and agent as services of systemd, or upgrade them; guests go on',
    load: async () => (await import('./commands/install.ts')).install,
  },
  doctor: {
    summary: 'Look at what this machine can do and what is wrong',
    load: async () => (await import('./commands/doctor.ts')).doctor,
  },
  volume: {
    summary:
      'Volumes of a folder: create, clone, list, usage, resize, rename, delete, check, import, export, unlock, rekey, limit, stats, lease',
    load: async () => (await import('./commands/volumes.ts')).volume,
  },
  snapshot: {
    summary: 'Snapshots of volumes: create, list, delete, revert, diff, export',
    load: async () => (await import('./commands/volumes.ts')).snapshot,
  },
  nbd: {
    summary: 'Serve disks over NBD: volumes of a folder, or memory',
    load: async () => (await import('./commands/nbd.ts')).nbd,
  },
  driver: {
    summary: 'Try what a driver does of all that the toolstack promises: check sim:|qemu:',
    load: async () => (await import('./commands/driver.ts')).driver,
  },
  'support-bundle': {
    summary: 'Write what helps to find a fault into a file: findings, versions, logs, counts; no secrets',
    load: async () => (await import('./commands/support-bundle.ts')).supportBundle,
  },
  completion: {
    summary: 'Print the completion script of a shell',
    load: async () => (await import('./commands/completion.ts')).completion,
  },
}

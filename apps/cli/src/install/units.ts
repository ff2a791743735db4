/**
 * The units of systemd. Pure texts.
 *
 *   typevisor-server.service    server and its PostgreSQL        may be stopped at any time: agents and guests go on
 *   typevisor-agent.service     agent; in its control group also the volume server and all guests
 *
 * Why stopping or upgrading the agent kills no guest: `KillMode=process` has systemd end the main process alone, and `SendSIGKILL` is of that
 * one too. What is left in the group is taken over by the next agent. `Delegate=yes` tells systemd that groups below are ours, so that it
 * does not move or remove them. Scopes (`systemd-run --scope`, one for a guest) would do the same, and would make each start of a guest hang
 * on D-Bus and PID 1, which guests have nothing to do with elsewhere (containers, hosts with another init): a stop that is safe by two lines
 * of a unit is safe in more places.
 *
 * What goes with it, and is in the units for that reason:
 *   OOMPolicy=continue           by default a guest that the kernel ends for memory would have its agent stopped too
 *   TasksMax=infinity            by default all guests together would have what one service may have
 *   no RuntimeDirectory=         systemd removes it when the service stops, and with it the sockets of the guests
 *   no PrivateTmp=, no Protect*= of the agent: guests stay in the mounts that it had, and the next agent would not see them
 *
 * `systemctl kill typevisor-agent` signals all of the group, guests among it; with `--kill-whom=main` the agent alone.
 *
 * Reference: systemd.kill(5), systemd.service(5), systemd.resource-control(5).
 */

export const SERVER_UNIT = 'typevisor-server.service'
export const AGENT_UNIT = 'typevisor-agent.service'

/** A word of ExecStart: `%` and `$` would be expanded, and blanks end a word. */
export function unitWord(word: string): string {
  const plain = word.replaceAll('%', '%%').replaceAll('$', '$$$$')
  return /^[\w./:@%+,=$-]+$/.test(plain) ? plain : `"${plain.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`
}

const execStart = (words: readonly string[]): string => words.map(unitWord).join(' ')

const HEAD = '# Written by `typevisor install`, and again at each upgrade: changes belong into `systemctl edit`.'

export interface ServerUnitOptions {
  /** Path of the launcher. */
  readonly program: string
  /** Behind it. */
  readonly words: readonly string[]
  readonly environmentFile: string
}

export const serverUnit = ({ program, words, environmentFile }: ServerUnitOptions): string => `${HEAD}
[Unit]
Description=Typevisor server
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=${execStart([program, ...words])}
EnvironmentFile=-${environmentFile}
# Its PostgreSQL is stopped by it; one that a killed server left is taken over by the next.
KillMode=process
TimeoutStopSec=90
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
`

export const agentUnit = ({
  program,
  words,
  environmentFile,
  hasServer,
}: ServerUnitOptions & { readonly hasServer: boolean }): string => `${HEAD}
[Unit]
Description=Typevisor agent
Wants=network-online.target
After=network-online.target${hasServer ? ` ${SERVER_UNIT}` : ''}
StartLimitIntervalSec=0

[Service]
ExecStart=${execStart([program, ...words])}
EnvironmentFile=-${environmentFile}
# Guests and the volume server go on: only the agent itself is stopped.
KillMode=process
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
TimeoutStopSec=90
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
`

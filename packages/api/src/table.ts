/**
 * The API as one table. Routes, validation, OpenAPI, the typed client, CLI verbs, roles and audit come from it; nothing else
 * names a path.
 */
import type { FaultCode } from '@typevisor/base'
import type { z } from 'zod'
import * as s from './schemas.ts'

export type Method = 'GET' | 'POST' | 'PATCH' | 'DELETE'
export type RoleName = z.infer<typeof s.Role>

export interface OperationDefinition {
  readonly method: Method
  /** `:id` names a path parameter. */
  readonly path: string
  readonly summary: string
  /** Who may call it; `none`: anybody, before signing in. */
  readonly role: RoleName | 'none'
  /** What a token must be allowed. */
  readonly scope: `${string}:${'read' | 'write'}`
  readonly params?: z.ZodObject
  readonly query?: z.ZodObject
  readonly body?: z.ZodObject
  readonly reply: z.ZodType
  readonly status: 200 | 201 | 202 | 204
  readonly faults: readonly FaultCode[]
  /** `stream`: a WebSocket of bytes (console, VNC); `events`: server-sent events. */
  readonly transport?: 'http' | 'stream' | 'events'
  /** Answers 202 with an operation; `wait` (seconds) in the query waits for its end. */
  readonly saga?: boolean
  /** CLI: parameters that are positional, in order. The verb is the operation's name. `null`: no verb of its own. */
  readonly cli: { readonly positional: readonly string[]; readonly confirms?: boolean } | null
}

const define = <const T extends Record<string, OperationDefinition>>(table: T): T => table

const byInstance = s.InstanceParams
const verb = <const N extends string>(name: N, summary: string, confirms = false) =>
  ({
    method: 'POST',
    path: `/api/v1/instances/:instance/${name}`,
    summary,
    role: 'operator',
    scope: 'instance:write',
    params: byInstance,
    query: s.WaitQuery,
    reply: s.Accepted,
    status: 202,
    faults: ['not_found', 'conflict', 'busy', 'unavailable'],
    saga: true,
    cli: { positional: ['instance'], confirms },
  }) as const

// One operation a line.
// oxfmt-ignore
export const OPERATIONS = define({
  'session.create': { method: 'POST', path: '/api/v1/session', summary: 'Sign in', role: 'none', scope: 'session:write', body: s.Credentials, reply: s.Session, status: 201, faults: ['unauthenticated', 'busy'], cli: null },
  'session.get': { method: 'GET', path: '/api/v1/session', summary: 'Who is signed in', role: 'viewer', scope: 'session:read', reply: s.Session, status: 200, faults: [], cli: { positional: [] } },
  'session.delete': { method: 'DELETE', path: '/api/v1/session', summary: 'Sign out', role: 'viewer', scope: 'session:write', reply: s.Empty, status: 200, faults: [], cli: null },
  'account.list': { method: 'GET', path: '/api/v1/accounts', summary: 'Accounts', role: 'admin', scope: 'account:read', query: s.ListQuery, reply: s.Page(s.Account), status: 200, faults: [], cli: { positional: [] } },
  'account.create': { method: 'POST', path: '/api/v1/accounts', summary: 'Make an account', role: 'admin', scope: 'account:write', body: s.CreateAccount, reply: s.Account, status: 201, faults: ['conflict'], cli: { positional: ['name'] } },
  'account.password': { method: 'POST', path: '/api/v1/accounts/:account/password', summary: 'Set a password (your own, or as an admin anybody\'s); ends the other sessions of the account', role: 'viewer', scope: 'account:write', params: s.AccountParams, body: s.SetPassword, reply: s.Account, status: 200, faults: ['not_found', 'forbidden', 'busy'], cli: { positional: ['account'] } },
  'account.delete': { method: 'DELETE', path: '/api/v1/accounts/:account', summary: 'Remove an account with its sessions and tokens', role: 'admin', scope: 'account:write', params: s.AccountParams, reply: s.Empty, status: 200, faults: ['not_found', 'conflict'], cli: { positional: ['account'], confirms: true } },
  'token.list': { method: 'GET', path: '/api/v1/tokens', summary: 'Your API tokens', role: 'viewer', scope: 'token:read', query: s.ListQuery, reply: s.Page(s.Token), status: 200, faults: [], cli: { positional: [] } },
  'token.create': { method: 'POST', path: '/api/v1/tokens', summary: 'Make an API token; its secret is shown once', role: 'viewer', scope: 'token:write', body: s.CreateToken, reply: s.TokenSecret, status: 201, faults: ['conflict', 'forbidden'], cli: { positional: ['name'] } },
  'token.delete': { method: 'DELETE', path: '/api/v1/tokens/:token', summary: 'Revoke a token', role: 'viewer', scope: 'token:write', params: s.TokenParams, reply: s.Empty, status: 200, faults: ['not_found'], cli: { positional: ['token'], confirms: true } },
  'audit.list': { method: 'GET', path: '/api/v1/audit', summary: 'Who did what', role: 'admin', scope: 'audit:read', query: s.ListQuery, reply: s.Page(s.AuditEntry), status: 200, faults: [], cli: { positional: [] } },

  'instance.list': { method: 'GET', path: '/api/v1/instances', summary: 'Instances', role: 'viewer', scope: 'instance:read', query: s.InstanceListQuery, reply: s.Page(s.Instance), status: 200, faults: [], cli: { positional: [] } },
  'instance.create': { method: 'POST', path: '/api/v1/instances', summary: 'Make an instance', role: 'operator', scope: 'instance:write', query: s.WaitQuery, body: s.CreateInstance, reply: s.Accepted, status: 202, faults: ['conflict', 'not_found', 'exhausted', 'unavailable'], saga: true, cli: { positional: ['name'] } },
  'instance.get': { method: 'GET', path: '/api/v1/instances/:instance', summary: 'One instance, by id or name', role: 'viewer', scope: 'instance:read', params: byInstance, reply: s.Instance, status: 200, faults: ['not_found'], cli: { positional: ['instance'] } },
  'instance.start': { ...verb('start', 'Start it'), faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unavailable'] },
  'instance.pause': verb('pause', 'Pause it'),
  'instance.unpause': verb('unpause', 'Let it go on'),
  'instance.shutdown': verb('shutdown', 'Ask the guest to power off'),
  'instance.reboot': verb('reboot', 'Reset the machine'),
  'instance.poweroff': verb('poweroff', 'Cut the power', true),
  'instance.save': verb('save', 'Write memory and devices to disk and end the guest'),
  'instance.restore': { ...verb('restore', 'Go on from the save'), faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unavailable'] },
  'instance.dump': { ...verb('dump', 'Write its memory to a core file on its host; it goes on as it was. The newest alone is kept'), faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unavailable'] },
  'instance.destroy': { ...verb('destroy', 'Remove it with its disks and snapshots', true), query: s.DestroyQuery },
  'instance.set': { method: 'PATCH', path: '/api/v1/instances/:instance', summary: 'Change its vCPUs, memory, share of the CPUs or limits of disks, also while it runs', role: 'operator', scope: 'instance:write', params: byInstance, query: s.WaitQuery, body: s.SetInstance, reply: s.Accepted, status: 202, faults: ['invalid', 'not_found', 'conflict', 'busy', 'exhausted', 'unavailable'], saga: true, cli: { positional: ['instance'] } },
  'instance.rename': { method: 'POST', path: '/api/v1/instances/:instance/rename', summary: 'Give it another name; its guest is not told', role: 'operator', scope: 'instance:write', params: byInstance, query: s.WaitQuery, body: s.RenameInstance, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'unavailable'], saga: true, cli: { positional: ['instance', 'name'] } },
  'instance.snapshots': { method: 'GET', path: '/api/v1/instances/:instance/snapshots', summary: 'Its snapshots, the oldest first; also known while its host is away', role: 'viewer', scope: 'instance:read', params: byInstance, reply: s.Page(s.Snapshot), status: 200, faults: ['not_found'], cli: { positional: ['instance'] } },
  'instance.snapshot': { method: 'POST', path: '/api/v1/instances/:instance/snapshots', summary: 'Keep its disks, and its memory if asked, as they are now', role: 'operator', scope: 'instance:write', params: byInstance, query: s.WaitQuery, body: s.CreateSnapshot, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unavailable'], saga: true, cli: { positional: ['instance', 'name'] } },
  'instance.revert': { method: 'POST', path: '/api/v1/instances/:instance/snapshots/:snapshot/revert', summary: 'Make it again what a snapshot holds; what was written since is lost', role: 'operator', scope: 'instance:write', params: s.SnapshotParams, query: s.WaitQuery, body: s.RevertInstance, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unavailable'], saga: true, cli: { positional: ['instance', 'snapshot'], confirms: true } },
  'instance.migrate': { method: 'POST', path: '/api/v1/instances/:instance/migrate', summary: 'Move it to another host, while it runs or as it stands', role: 'operator', scope: 'instance:write', params: byInstance, query: s.WaitQuery, body: s.MigrateInstance, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unsupported', 'unavailable'], saga: true, cli: { positional: ['instance'] } },
  'instance.clone': { method: 'POST', path: '/api/v1/instances/:instance/snapshots/:snapshot/clone', summary: 'Make a new instance on the disks of a snapshot; memory is not cloned', role: 'operator', scope: 'instance:write', params: s.SnapshotParams, query: s.WaitQuery, body: s.CloneInstance, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'exhausted', 'unavailable'], saga: true, cli: { positional: ['instance', 'snapshot', 'name'] } },
  'instance.copy': { method: 'POST', path: '/api/v1/instances/:instance/copy', summary: 'Make a new instance of it as it is now, also while it runs; memory is not copied', role: 'operator', scope: 'instance:write', params: byInstance, query: s.WaitQuery, body: s.CopyInstance, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unavailable'], saga: true, cli: { positional: ['instance', 'name'] } },
  'instance.snapshot-delete': { method: 'DELETE', path: '/api/v1/instances/:instance/snapshots/:snapshot', summary: 'Delete a snapshot; what was cloned from it stays', role: 'operator', scope: 'instance:write', params: s.SnapshotParams, query: s.WaitQuery, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'unavailable'], saga: true, cli: { positional: ['instance', 'snapshot'], confirms: true } },
  'instance.devices': { method: 'GET', path: '/api/v1/instances/:instance/devices', summary: 'Its devices, and the volumes that are kept of detached ones', role: 'viewer', scope: 'instance:read', params: byInstance, reply: s.Page(s.Device), status: 200, faults: ['not_found', 'conflict', 'unavailable'], cli: { positional: ['instance'] } },
  'instance.device': { method: 'GET', path: '/api/v1/instances/:instance/devices/:device', summary: 'One device', role: 'viewer', scope: 'instance:read', params: s.DeviceParams, reply: s.Device, status: 200, faults: ['not_found', 'conflict', 'unavailable'], cli: { positional: ['instance', 'device'] } },
  'instance.attach': { method: 'POST', path: '/api/v1/instances/:instance/devices', summary: 'Give it a device, also while it runs', role: 'operator', scope: 'instance:write', params: byInstance, query: s.WaitQuery, body: s.AttachDevice, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unavailable'], saga: true, cli: { positional: ['instance', 'kind', 'device'] } },
  'instance.detach': { method: 'DELETE', path: '/api/v1/instances/:instance/devices/:device', summary: 'Take a device away; its volume is kept', role: 'operator', scope: 'instance:write', params: s.DeviceParams, query: s.DetachQuery, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'timeout', 'unavailable'], saga: true, cli: { positional: ['instance', 'device'], confirms: true } },
  'instance.resize': { method: 'POST', path: '/api/v1/instances/:instance/devices/:device/resize', summary: 'Make a disk larger, also the root disk, also while it runs', role: 'operator', scope: 'instance:write', params: s.DeviceParams, query: s.WaitQuery, body: s.ResizeDisk, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unavailable'], saga: true, cli: { positional: ['instance', 'device'] } },
  'instance.insert': { method: 'POST', path: '/api/v1/instances/:instance/devices/:device/medium', summary: 'Put an image into a CD drive, in place of what is there', role: 'operator', scope: 'instance:write', params: s.DeviceParams, query: s.WaitQuery, body: s.InsertMedium, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'exhausted', 'unavailable'], saga: true, cli: { positional: ['instance', 'device', 'medium'] } },
  'instance.eject': { method: 'DELETE', path: '/api/v1/instances/:instance/devices/:device/medium', summary: 'Take out what is in a CD drive', role: 'operator', scope: 'instance:write', params: s.DeviceParams, query: s.WaitQuery, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'unavailable'], saga: true, cli: { positional: ['instance', 'device'] } },
  'instance.exec': { method: 'POST', path: '/api/v1/instances/:instance/exec', summary: 'Run a command in the guest through its agent', role: 'operator', scope: 'instance:write', params: byInstance, body: s.ExecBody, reply: s.ExecReply, status: 200, faults: ['not_found', 'conflict', 'unavailable', 'timeout', 'busy'], cli: { positional: ['instance', 'argv'] } },
  'instance.addresses': { method: 'GET', path: '/api/v1/instances/:instance/addresses', summary: 'Network addresses, as the guest agent sees them', role: 'viewer', scope: 'instance:read', params: byInstance, reply: s.AddressList, status: 200, faults: ['not_found', 'conflict', 'unavailable', 'timeout'], cli: { positional: ['instance'] } },
  'instance.statistics': { method: 'GET', path: '/api/v1/instances/:instance/statistics', summary: 'Counters', role: 'viewer', scope: 'instance:read', params: byInstance, reply: s.Statistics, status: 200, faults: ['not_found', 'conflict', 'unavailable'], cli: { positional: ['instance'] } },
  'instance.screenshot': { method: 'GET', path: '/api/v1/instances/:instance/screenshot', summary: 'What its screen shows, as a PNG picture', role: 'viewer', scope: 'instance:read', params: byInstance, reply: s.Screenshot, status: 200, faults: ['not_found', 'conflict', 'unavailable', 'unsupported'], cli: { positional: ['instance'] } },
  'instance.keys': { method: 'POST', path: '/api/v1/instances/:instance/keys', summary: 'Press keys of its keyboard, or type a text', role: 'operator', scope: 'instance:write', params: byInstance, body: s.KeysBody, reply: s.Empty, status: 200, faults: ['not_found', 'conflict', 'unavailable', 'unsupported'], cli: { positional: ['instance', 'keys'] } },
  'instance.file-get': { method: 'GET', path: '/api/v1/instances/:instance/files', summary: 'Read a file of the guest through its agent', role: 'operator', scope: 'instance:write', params: byInstance, query: s.GuestFileQuery, reply: s.GuestFile, status: 200, faults: ['not_found', 'conflict', 'unavailable', 'timeout', 'busy', 'failed'], cli: { positional: ['instance', 'path'] } },
  'instance.file-put': { method: 'POST', path: '/api/v1/instances/:instance/files', summary: 'Write a file of the guest through its agent', role: 'operator', scope: 'instance:write', params: byInstance, body: s.PutGuestFile, reply: s.Empty, status: 200, faults: ['not_found', 'conflict', 'unavailable', 'timeout', 'busy', 'failed'], cli: { positional: ['instance', 'path'] } },
  'instance.password': { method: 'POST', path: '/api/v1/instances/:instance/password', summary: 'Set the password of an account of the guest through its agent', role: 'operator', scope: 'instance:write', params: byInstance, body: s.GuestPassword, reply: s.Empty, status: 200, faults: ['not_found', 'conflict', 'unavailable', 'timeout', 'busy', 'failed'], cli: { positional: ['instance', 'user'] } },
  'instance.log': { method: 'GET', path: '/api/v1/instances/:instance/console/log', summary: 'Kept output of the serial console', role: 'viewer', scope: 'instance:read', params: byInstance, query: s.ConsoleLogQuery, reply: s.ConsoleSlice, status: 200, faults: ['not_found', 'unavailable'], cli: { positional: ['instance'] } },
  'instance.console': { method: 'GET', path: '/api/v1/instances/:instance/console', summary: 'The serial console', role: 'operator', scope: 'instance:write', params: byInstance, query: s.ConsoleQuery, reply: s.Empty, status: 200, faults: ['not_found', 'conflict', 'unavailable'], transport: 'stream', cli: { positional: ['instance'] } },
  'instance.vnc': { method: 'GET', path: '/api/v1/instances/:instance/vnc', summary: 'The screen, as a stream of RFB (RFC 6143)', role: 'operator', scope: 'instance:write', params: byInstance, reply: s.Empty, status: 200, faults: ['not_found', 'conflict', 'unavailable'], transport: 'stream', cli: null },

  'operation.list': { method: 'GET', path: '/api/v1/operations', summary: 'Operations, the newest first', role: 'viewer', scope: 'operation:read', query: s.OperationListQuery, reply: s.Page(s.Operation), status: 200, faults: [], cli: { positional: [] } },
  'operation.get': { method: 'GET', path: '/api/v1/operations/:operation', summary: 'One operation; `wait` waits for its end', role: 'viewer', scope: 'operation:read', params: s.OperationParams, query: s.WaitQuery, reply: s.Operation, status: 200, faults: ['not_found'], cli: { positional: ['operation'] } },
  'operation.cancel': { method: 'POST', path: '/api/v1/operations/:operation/cancel', summary: 'Turn it round: what it did is undone', role: 'operator', scope: 'operation:write', params: s.OperationParams, reply: s.Operation, status: 200, faults: ['not_found', 'conflict'], cli: { positional: ['operation'] } },
  'operation.retry': { method: 'POST', path: '/api/v1/operations/:operation/retry', summary: 'Try the undo of a stuck one again', role: 'admin', scope: 'operation:write', params: s.OperationParams, reply: s.Operation, status: 200, faults: ['not_found', 'conflict'], cli: { positional: ['operation'] } },
  'operation.abandon': { method: 'POST', path: '/api/v1/operations/:operation/abandon', summary: 'Let go of what a stuck one holds, as it is: nothing more is undone', role: 'admin', scope: 'operation:write', params: s.OperationParams, reply: s.Operation, status: 200, faults: ['not_found', 'conflict'], cli: { positional: ['operation'], confirms: true } },

  'event.list': { method: 'GET', path: '/api/v1/events', summary: 'Events, the newest first', role: 'viewer', scope: 'event:read', query: s.EventListQuery, reply: s.Page(s.PlatformEvent), status: 200, faults: [], cli: { positional: [] } },
  'event.stream': { method: 'GET', path: '/api/v1/events/stream', summary: 'Events as they come; at least once, in order', role: 'viewer', scope: 'event:read', query: s.EventStreamQuery, reply: s.PlatformEvent, status: 200, faults: [], transport: 'events', cli: { positional: [] } },

  'image.list': { method: 'GET', path: '/api/v1/images', summary: 'Images', role: 'viewer', scope: 'image:read', reply: s.Page(s.Image), status: 200, faults: [], cli: { positional: [] } },
  'image.build': { method: 'POST', path: '/api/v1/images/:image/build', summary: 'Build an image by its recipe', role: 'operator', scope: 'image:write', params: s.ImageParams, query: s.WaitQuery, body: s.BuildImage, reply: s.Accepted, status: 202, faults: ['not_found', 'conflict', 'busy', 'unavailable'], saga: true, cli: { positional: ['image'] } },

  'host.list': { method: 'GET', path: '/api/v1/hosts', summary: 'Hosts', role: 'viewer', scope: 'host:read', reply: s.Page(s.Host), status: 200, faults: [], cli: { positional: [] } },
  'host.get': { method: 'GET', path: '/api/v1/hosts/:host', summary: 'One host, with the server of its volumes and how full their store is', role: 'viewer', scope: 'host:read', params: s.HostParams, reply: s.Host, status: 200, faults: ['not_found'], cli: { positional: ['host'] } },
  'host.media': { method: 'GET', path: '/api/v1/hosts/:host/media', summary: 'Images for CD drives in the media folder of a host', role: 'viewer', scope: 'host:read', params: s.HostParams, reply: s.Page(s.Medium), status: 200, faults: ['not_found', 'unavailable'], cli: { positional: ['host'] } },
  'host.token': { method: 'POST', path: '/api/v1/hosts/token', summary: 'Make a token with which an agent joins', role: 'admin', scope: 'host:write', body: s.CreateHostToken, reply: s.HostToken, status: 201, faults: [], cli: { positional: ['name'] } },
  'host.delete': { method: 'DELETE', path: '/api/v1/hosts/:host', summary: 'Forget a host that is not connected; its token ends', role: 'admin', scope: 'host:write', params: s.HostParams, query: s.DeleteHostQuery, reply: s.Empty, status: 200, faults: ['not_found', 'conflict'], cli: { positional: ['host'], confirms: true } },

  'platform.get': { method: 'GET', path: '/api/v1/platform', summary: 'The platform itself', role: 'viewer', scope: 'platform:read', reply: s.Platform, status: 200, faults: [], cli: { positional: [] } },
  'platform.health': { method: 'GET', path: '/api/v1/health', summary: 'Whether it serves', role: 'none', scope: 'platform:read', reply: s.Health, status: 200, faults: ['unavailable'], cli: null },
  'platform.stop': { method: 'POST', path: '/api/v1/platform/stop', summary: 'Stop the platform; guests go on unless told otherwise', role: 'admin', scope: 'platform:write', body: s.StopPlatform, reply: s.Empty, status: 202, faults: [], cli: null },
})

export type OperationName = keyof typeof OPERATIONS
export const OPERATION_NAMES = Object.keys(OPERATIONS) as OperationName[]
export type Body<N extends OperationName> = (typeof OPERATIONS)[N] extends { body: infer B extends z.ZodType }
  ? z.input<B>
  : undefined
export type ParsedBody<N extends OperationName> = (typeof OPERATIONS)[N] extends { body: infer B extends z.ZodType }
  ? z.output<B>
  : undefined
export type Query<N extends OperationName> = (typeof OPERATIONS)[N] extends { query: infer Q extends z.ZodType }
  ? z.input<Q>
  : undefined
export type ParsedQuery<N extends OperationName> = (typeof OPERATIONS)[N] extends { query: infer Q extends z.ZodType }
  ? z.output<Q>
  : undefined
export type Params<N extends OperationName> = (typeof OPERATIONS)[N] extends { params: infer P extends z.ZodType }
  ? z.output<P>
  : undefined
export type Reply<N extends OperationName> = (typeof OPERATIONS)[N] extends { reply: infer R extends z.ZodType }
  ? z.output<R>
  : never

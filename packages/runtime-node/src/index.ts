export { realClock } from './clock.ts'
export { nodeDisk } from './disk.ts'
export { faultOf, isErrno } from './errno.ts'
export { uuidv7Ids } from './ids.ts'
export { consoleLog, type ConsoleLogLevel, type ConsoleLogOptions } from './log.ts'
export { lockFile, type LockFile } from './lockfile.ts'
export { faultOfPg, pgExecutor, type PgClient, type PgExecutor, type PgPool } from './pg-executor.ts'
export { endProcess, signalProcess, waitForExit, type SignalName } from './pidfd.ts'
export { startEmbeddedPostgres, type EmbeddedPostgres, type EmbeddedPostgresOptions } from './postgres.ts'
export { isRoot, userById, userByName, type SystemUser } from './privileges.ts'
export {
  bootId,
  processAlive,
  processIdentity,
  sameProcess,
  spawnDetached,
  type DetachedProcess,
  type ProcessExit,
  type ProcessIdentity,
  type SpawnDetachedOptions,
} from './process.ts'
export { reachable, type Credentials, type Reachability } from './reachable.ts'
export { realRng } from './rng.ts'

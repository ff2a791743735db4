/**
 * The real world behind the ports of `base`: clock, random numbers, ids, log and disk of this machine, its processes, and the embedded
 * PostgreSQL. Only composition roots (and tests) import it; core packages know the ports.
 *
 *   Clock <- realClock      Rng <- realRng      IdSource <- uuidv7Ids      Log <- consoleLog      Disk <- nodeDisk
 *
 *   spawnDetached --identity--> kept in a record --> processAlive, signalProcess, waitForExit, endProcess    (after any restart of ours)
 *   lockFile      one live process a data directory
 *   startEmbeddedPostgres --connection--> pg's Pool --pgExecutor--> the SqlExecutor of saga
 *
 * Invariants, and the test that holds them:
 *   a process that we start outlives our SIGKILL; a stranger with its number gets no signal      process.test.ts
 *   a lock goes with its holder, however it dies                                                 process.test.ts
 *   what was committed survives the SIGKILL of server and database; the next start adopts it     postgres.test.ts
 *   the `Disk` port's promises                                                                   disk.test.ts, sim's conformance suite
 *
 * Failure paths: errors of the operating system and of the database become `Fault`s (`errno.ts`, `pg-executor.ts`), with the error itself as
 * the cause. Where koffi cannot be loaded, exits are found by polling /proc, and locks are
 * refused.
 *
 * What it is not: a supervisor. It starts and ends processes and says when they end; who should run is decided elsewhere. Linux only.
 *
 * References: pidfd_open(2), flock(2), proc_pid_stat(5), user_namespaces(7); RFC 9562 section 5.7 (UUIDv7); PostgreSQL 18 manual, 18.3 and 18.5.
 */
export { setThreadAffinity, whyNoAffinity } from './affinity.ts'
export { realClock } from './clock.ts'
export { sendDescriptor, whyNoDescriptors } from './descriptors.ts'
export { makeNamedPipe } from './pipe.ts'
export { nodeDisk } from './disk.ts'
export { faultOf, isErrno } from './errno.ts'
export { fileCalls, type FileCalls } from './file-calls.ts'
export { uuidv7Ids } from './ids.ts'
export { consoleLog, type ConsoleLogLevel, type ConsoleLogOptions } from './log.ts'
export { lockFile, lockHolder, type LockFile } from './lockfile.ts'
export { faultOfPg, pgExecutor, type PgClient, type PgExecutor, type PgPool } from './pg-executor.ts'
export { endProcess, signalProcess, waitForExit, type SignalName } from './pidfd.ts'
export { startEmbeddedPostgres, type EmbeddedPostgres, type EmbeddedPostgresOptions } from './postgres.ts'
export { isRoot, userById, userByName, type SystemUser } from './privileges.ts'
export {
  bootId,
  processActivity,
  processAlive,
  processIdentity,
  processWords,
  sameProcess,
  spawnDetached,
  type DetachedProcess,
  type ProcessExit,
  type ProcessIdentity,
  type SpawnDetachedOptions,
} from './process.ts'
export { reachable, type Credentials, type Reachability } from './reachable.ts'
export { realRng } from './rng.ts'

/**
 * Who may import whom, as data. `ARCHITECTURE.test.ts` holds the code to it: a package that is not here, an import that is not listed and
 * a `node:` module in a core package all fail; so does what is allowed and not used.
 *
 * Every package may use `base` and `model`; tests, benchmarks and `testing.ts` may use anything below their package and `sim`.
 */
export interface PackageRule {
  /** Typevisor packages it may import beside `base` and `model`. */
  readonly uses: readonly string[]
  /**
   * `core`: no `node:*`, no clock, no randomness, no sockets; those come in through ports.
   * `edge`: meets the world. `root`: joins drivers, edges and cores into a program.
   */
  readonly kind: 'core' | 'edge' | 'root'
  /** Files of a core package that may import `node:*`: the edge that implements its ports. */
  readonly edgeFiles?: readonly string[]
}

export const PACKAGES: Readonly<Record<string, PackageRule>> = {
  'packages/base': { uses: [], kind: 'core' },
  'packages/model': { uses: [], kind: 'core' },
  // Virtual time must let real promises settle: its clock waits for the event loop's turn.
  'packages/sim': { uses: [], kind: 'core', edgeFiles: ['clock.ts'] },
  'packages/runtime-node': { uses: [], kind: 'edge' },
  'packages/saga': { uses: [], kind: 'core' },
  'packages/codec': { uses: [], kind: 'core' },
  'packages/nbd': { uses: ['codec'], kind: 'core', edgeFiles: ['node-*.ts'] },
  'packages/storage': { uses: ['codec', 'nbd'], kind: 'core', edgeFiles: ['node-*.ts'] },
  'packages/image': { uses: ['storage'], kind: 'core', edgeFiles: ['node-*.ts', 'build.ts'] },
  // The conformance suite says what it finds by `node:assert`.
  'packages/toolstack': {
    uses: ['saga', 'storage', 'image'],
    kind: 'core',
    edgeFiles: ['conformance.ts', 'conformance-*.ts'],
  },
  'packages/drivers/sim': { uses: ['toolstack'], kind: 'core' },
  'packages/drivers/qemu': { uses: ['image', 'toolstack'], kind: 'core', edgeFiles: ['node-*.ts'] },
  'packages/identity': { uses: [], kind: 'core' },
  // The client is used where it runs: in browsers and programs, with their timers.
  'packages/api': { uses: [], kind: 'core', edgeFiles: ['generate.ts', 'client.ts'] },
  'apps/agent': {
    uses: ['saga', 'storage', 'image', 'toolstack', 'driver-sim', 'driver-qemu', 'api', 'runtime-node'],
    kind: 'root',
  },
  'apps/server': { uses: ['saga', 'identity', 'api', 'runtime-node', 'agent'], kind: 'root' },
  'apps/cli': { uses: ['nbd', 'storage', 'toolstack', 'api', 'server', 'agent', 'runtime-node'], kind: 'root' },
  'apps/portal': { uses: ['api'], kind: 'edge' },
}

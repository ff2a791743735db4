/**
 * Domains on QEMU: each guest is one detached QEMU process that this driver starts, speaks QMP with, and can lose sight of.
 *
 *   toolstack --DomainDriver--> driver --QMP--> qemu-system-x86_64 --> guest
 *                                 |                 |  |  |
 *                                 |                 |  |  +-- console.log (every byte, by QEMU itself), console.in (a pipe)
 *                                 |                 |  +----- agent.sock (qemu-guest-agent), vnc.sock (RFB)
 *                                 |                 +-------- qmp.sock
 *                                 +-- domain.json: what runs, since when, what was going on (`record.ts`)
 *
 * Invariants
 *   - SIGKILL of the caller at any moment ends no guest, and no later caller starts a second QEMU for the same domain (`launch.ts`).
 *   - What a guest sees (machine, processor, addresses, MACs, serials) comes from its record and from nowhere else (`hardware.ts`).
 *   - A fault leaves what was there before: a create or restore that fails leaves nothing, a save that fails leaves the guest (`saving.ts`).
 *   - Nothing that a guest, an agent in it, QEMU or a file says can make the driver throw anything but a Fault.
 *   - Arguments are vectors, values are JSON or quoted (`command-line.ts`); QEMU may execute nothing and runs as its own user if told.
 * Failure paths: QEMU dies at start: `failed` with its last words. It hangs: `timeout` naming the command, per command. It is killed
 *   while watched: `gone/process-failed`; while nobody watched: `gone/unknown`. The event queue overflows: `busy`, adopt again.
 * Not here: policy, disks' contents, networks beyond QEMU's user networking, who carries a guest's bytes to another host.
 *
 * The core imports no `node:*`; `node-host.ts` is the edge and says why. One driver object per run folder at a time: the agent's own
 * lock on its data folder sees to that. Modelled on libvirt's qemu driver (monitor, save by migration) and on Oxide's propolis.
 * References: QEMU 7.2 docs/interop/qmp-spec.txt, qapi/*.json, qga/qapi-schema.json.
 */
export { carryMemory, type Carrying } from './carrying.ts'
export { createQemuDriver, type QemuDriver, type QemuDriverLimits, type QemuDriverOptions } from './driver.ts'
export { qemuConformanceWorld, type QemuWorldOptions } from './node-conformance-world.ts'
export { createNodeHost, type RuntimeProcesses } from './node-host.ts'
export type {
  HostFiles,
  HostProcesses,
  HostSockets,
  KernelFiles,
  ProcessIdentity,
  ProcessUser,
  QemuHost,
  SpawnRequest,
} from './ports.ts'

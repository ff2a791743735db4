/**
 * Guest images: what a guest boots from, and what it is told at its first boot.
 *
 *   Debian's packages --node-debian--> files --micro (pure)--> kernel, initramfs, root tree --node-root-disk--> qcow2
 *                                                                          |
 *   CloudInitSpec --seed (pure)--> ISO 9660 `cidata`                 node-image-store: <folder>/micro/<digest>/, switched by one rename
 *                                        \                                 |
 *                                         +--------> guest <---------------+      (guest/: its scripts, the cloud-init reader)
 *
 * Pure: `kernel` and `lz4` (bzImage to ELF), `elf`, `tree`, `cpio`, `iso9660`, `seed`, `micro`. What touches the machine is named `node-`.
 *
 * Invariants: equal packages give an equal digest; a version's folder never changes; `current` points at a whole version or at none; an
 * aborted or killed build leaves the old image as it was; nothing is installed on the host, no mount and no root is needed; a key, name
 * or host name in a seed cannot become anything else than that.
 *
 * The micro guest: one ext4 disk (grown at the next boot when the volume grew), DHCP on eth0, dropbear with keys only, the QEMU guest
 * agent, clean power-off by the ACPI button in a fraction of a second. Its serial console is signed in as root: whoever may open the
 * console owns the guest, as with a rescue console. It prints `typevisor: ready <uptime>` when logins are taken.
 * The kernel is started by its PVH note, unpacked and at a fixed address (no KASLR).
 *
 * Failure paths: apt without network is `unavailable` with apt's words (the last known versions are taken from the cache where they
 * are whole); no space `exhausted`; a missing tool `failed` with the Debian package to install; an unknown recipe `not_found`.
 *
 * What it is not: no general image builder, no import of cloud images yet; the guest knows the part of cloud-init that
 * `guest/root/usr/lib/typevisor/cloud-init` lists, and no package manager.
 *
 * References: cloudinit.readthedocs.io (NoCloud), ECMA-119, RRIP 1.12, Documentation/arch/x86/boot.rst, Xen's PVH boot protocol.
 */
export { withBuildProcess, type BuildProcessOptions } from './node-build-process.ts'
export { MICRO_COMMAND_LINE } from './micro.ts'
export { createImageStore, type ImageStoreOptions, type NodeImageStore } from './node-image-store.ts'
export type { Image, ImageStore } from './ports.ts'
export { buildSeed, seedFiles, type SeedInput } from './seed.ts'
export { SIM_IMAGE } from './sim-image.ts'

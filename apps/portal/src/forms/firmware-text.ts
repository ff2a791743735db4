import type { Firmware } from '@typevisor/model'

export const FIRMWARE_TEXT: Readonly<Record<Firmware, string>> = {
  bios: 'BIOS',
  uefi: 'UEFI',
  'uefi-secure': 'UEFI with Secure Boot',
}

/** Of the form for a new instance what few need: firmware, what it boots from, room to grow while it runs, what becomes of it after a crash. */
import { Checkbox, Stack, TextInput } from '@mantine/core'
import { FIRMWARE_KINDS } from '@typevisor/model'
import { useQuery } from '@tanstack/react-query'
import { useEffect, useState } from 'react'
import { apiQuery } from '../api/queries.ts'
import { CrashField } from './crash-field.tsx'
import type { FieldErrors } from './field-errors.ts'
import { FIRMWARE_TEXT } from './firmware-text.ts'
import { lacking } from './guests-offered.ts'
import { BOOT_ORDERS, inSizes, type InstanceDraft } from './instance-draft.ts'
import { NativeSelect } from './native-select.tsx'
import { WORD_PROPS } from './word-props.ts'

export const ADVANCED_FIELDS = [
  'firmware',
  'tpm',
  'bootOrder',
  'vcpuCountMax',
  'memoryMax',
  'hugePages',
  'onCrash',
  'autostart',
  'autostartOrder',
] as const

interface Props {
  readonly draft: InstanceDraft
  readonly errors: FieldErrors<(typeof ADVANCED_FIELDS)[number]>
  readonly change: (part: Partial<InstanceDraft>) => void
  /** Something in it is wrong: it is shown. */
  readonly open: boolean
}

export function AdvancedFields({ draft, errors, change, open }: Props) {
  const [opened, setOpened] = useState(false)
  const hosts = useQuery(apiQuery('host.list', {}))
  useEffect(() => {
    if (open) setOpened(true)
  }, [open])
  const without = (what: string): string | null => lacking(what, hosts.data?.items ?? [], draft.host)
  const refused = FIRMWARE_KINDS.flatMap((kind) => {
    const reason = without(kind)
    return reason === null ? [] : [`${FIRMWARE_TEXT[kind]}: ${reason}`]
  })
  const noNetwork = without('network')
  const hasTpm = draft.tpm && draft.firmware !== 'bios'
  const noTpm = draft.firmware === 'bios' ? 'By UEFI alone' : without('tpm')
  return (
    <details className="more" open={opened} onToggle={(event) => setOpened(event.currentTarget.open)} data-testid="advanced">
      <summary>Advanced: firmware, room to grow, crashes</summary>
      <Stack gap="md">
        <NativeSelect
          label="Firmware"
          {...(refused.length > 0 && { description: refused.join('; ') })}
          value={draft.firmware}
          error={errors.at.firmware}
          onChange={(choice) => change({ firmware: FIRMWARE_KINDS.find((kind) => kind === choice) ?? 'bios' })}
          testId="field-firmware"
        >
          {FIRMWARE_KINDS.map((kind) => (
            <option key={kind} value={kind} disabled={without(kind) !== null}>
              {FIRMWARE_TEXT[kind]}
            </option>
          ))}
        </NativeSelect>
        <Checkbox
          label="A TPM of its own"
          description={noTpm ?? 'TPM 2.0, kept as long as the instance'}
          checked={hasTpm}
          disabled={noTpm !== null && !hasTpm}
          onChange={(event) => change({ tpm: event.currentTarget.checked })}
          error={errors.at.tpm}
          data-testid="field-tpm"
        />
        <NativeSelect
          label="Boots from"
          {...(noNetwork !== null && { description: `The network: ${noNetwork}` })}
          value={draft.bootOrder}
          error={errors.at.bootOrder}
          onChange={(bootOrder) => change({ bootOrder })}
          testId="field-bootOrder"
        >
          {Object.entries(BOOT_ORDERS).map(([value, { title, order }]) => (
            <option key={value} value={value} disabled={noNetwork !== null && order.includes('network')}>
              {title}
            </option>
          ))}
        </NativeSelect>
        <div className="field-row">
          <TextInput
            label="vCPUs at most"
            description="What it may be given while it runs"
            placeholder={draft.vcpuCount}
            inputMode="numeric"
            value={draft.vcpuCountMax}
            error={errors.at.vcpuCountMax}
            onChange={(event) => change({ vcpuCountMax: event.currentTarget.value })}
            data-testid="field-vcpuCountMax"
            {...WORD_PROPS}
          />
          <TextInput
            label="Memory at most"
            description="What it may be given while it runs"
            placeholder={draft.memory}
            value={draft.memoryMax}
            error={errors.at.memoryMax === undefined ? undefined : inSizes(errors.at.memoryMax)}
            onChange={(event) => change({ memoryMax: event.currentTarget.value })}
            data-testid="field-memoryMax"
            {...WORD_PROPS}
          />
        </div>
        <Checkbox
          label="Memory in huge pages"
          description="The host must have set enough of them aside, else it does not start"
          checked={draft.hugePages}
          onChange={(event) => change({ hugePages: event.currentTarget.checked })}
          error={errors.at.hugePages}
          data-testid="field-hugePages"
        />
        <CrashField value={draft.onCrash} error={errors.at.onCrash} onChange={(onCrash) => change({ onCrash })} />
        <Checkbox
          label="Start it again with its host"
          description="When the host was started anew, if it ran when that went down"
          checked={draft.autostart}
          onChange={(event) => change({ autostart: event.currentTarget.checked })}
          error={errors.at.autostart}
          data-testid="field-autostart"
        />
        {draft.autostart && (
          <TextInput
            label="Order"
            description="Lower ones are started first, of equal ones by name"
            inputMode="numeric"
            value={draft.autostartOrder}
            error={errors.at.autostartOrder}
            onChange={(event) => change({ autostartOrder: event.currentTarget.value })}
            data-testid="field-autostartOrder"
            {...WORD_PROPS}
          />
        )}
      </Stack>
    </details>
  )
}

/** Whether a guest freezes its file systems while its disks are taken. */
import { QUIESCE_MODES, type Quiesce } from '@typevisor/model'
import { NativeSelect } from './native-select.tsx'

const TEXT: Readonly<Record<Quiesce, { readonly title: string; readonly means: string }>> = {
  try: { title: 'If it can', means: 'By the agent in the guest, if it answers: the disks then need no recovery' },
  must: { title: 'It must', means: 'Without an answer of the agent in the guest no snapshot is taken' },
  no: { title: 'No', means: 'The disks recover as after a power cut' },
}

interface QuiesceFieldProps {
  readonly value: Quiesce
  readonly onChange: (value: Quiesce) => void
  readonly error: string | undefined
}

export function QuiesceField({ value, onChange, error }: QuiesceFieldProps) {
  return (
    <NativeSelect
      label="Freeze its file systems for the moment"
      description={TEXT[value].means}
      value={value}
      onChange={(choice) => onChange(QUIESCE_MODES.find((mode) => mode === choice) ?? 'try')}
      error={error}
      testId="field-quiesce"
    >
      {QUIESCE_MODES.map((mode) => (
        <option key={mode} value={mode}>
          {TEXT[mode].title}
        </option>
      ))}
    </NativeSelect>
  )
}

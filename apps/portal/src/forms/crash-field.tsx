import { CRASH_ACTIONS, type CrashAction } from '@typevisor/model'
import { NativeSelect } from './native-select.tsx'

export const CRASH_TEXT: Readonly<Record<CrashAction, string>> = {
  keep: 'It stays as it is',
  reboot: 'It is started again',
  poweroff: 'It is powered off',
  'dump-keep': 'Core dump, then it stays as it is',
  'dump-reboot': 'Core dump, then it is started again',
  'dump-poweroff': 'Core dump, then it is powered off',
}

interface Props {
  readonly value: CrashAction
  readonly error: string | undefined
  readonly onChange: (action: CrashAction) => void
}

/** What becomes of a guest that crashed. */
export function CrashField({ value, error, onChange }: Props) {
  return (
    <NativeSelect
      label="When it crashes"
      description="Its guest panics or its process fails. What is started again three times in ten minutes then stays crashed"
      value={value}
      error={error}
      onChange={(choice) => onChange(CRASH_ACTIONS.find((action) => action === choice) ?? 'keep')}
      testId="field-onCrash"
    >
      {CRASH_ACTIONS.map((action) => (
        <option key={action} value={action}>
          {CRASH_TEXT[action]}
        </option>
      ))}
    </NativeSelect>
  )
}

import type { ReactNode } from 'react'

interface Props {
  readonly label: string
  readonly description?: string
  readonly error?: string | undefined
  readonly value: string
  readonly onChange: (value: string) => void
  readonly testId: string
  readonly children: ReactNode
}

export function NativeSelect({ label, description, error, value, onChange, testId, children }: Props) {
  return (
    <label className="stacked">
      <span className="mantine-InputWrapper-label">{label}</span>
      {description !== undefined && <span className="field-note">{description}</span>}
      <span className="select">
        <select
          style={{ width: '100%' }}
          value={value}
          onChange={(event) => onChange(event.currentTarget.value)}
          aria-invalid={error !== undefined}
          data-testid={testId}
        >
          {children}
        </select>
      </span>
      {error !== undefined && <span className="field-error">{error}</span>}
    </label>
  )
}

import { PasswordInput } from '@mantine/core'

interface PasswordFieldProps {
  readonly label: string
  readonly description?: string
  readonly autoComplete: 'current-password' | 'new-password'
  readonly value: string
  readonly onChange: (value: string) => void
  readonly error: string | undefined
}

/** The library's field, which tells a screen reader neither that it is wrong nor what its eye does. */
export function PasswordField({ onChange, error, ...rest }: PasswordFieldProps) {
  return (
    <PasswordInput
      {...rest}
      error={error}
      aria-invalid={error !== undefined}
      onChange={(event) => onChange(event.currentTarget.value)}
      visibilityToggleButtonProps={{ 'aria-label': 'Show the password' }}
    />
  )
}

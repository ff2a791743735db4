import { Alert } from '@mantine/core'
import { Icon } from '../ui/icons.tsx'

/** What a form's fields have no place for. */
export function FaultAlert({ title, lines }: { readonly title: string; readonly lines: readonly string[] }) {
  if (lines.length === 0) return null
  return (
    <Alert color="red" variant="light" icon={<Icon name="alert" />} title={title} role="alert" data-testid="form-fault">
      {lines.map((line) => (
        <div key={line} style={{ overflowWrap: 'anywhere' }}>
          {line}
        </div>
      ))}
    </Alert>
  )
}

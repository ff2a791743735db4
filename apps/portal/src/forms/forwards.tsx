/** The rows in which ports of the host are given to a guest. */
import { ActionIcon, Button, Group, TextInput } from '@mantine/core'
import { Icon } from '../ui/icons.tsx'
import { NEW_FORWARD, type ForwardDraft } from './forward-draft.ts'

interface Props {
  readonly forwards: readonly ForwardDraft[]
  readonly error: string | undefined
  readonly onChange: (forwards: readonly ForwardDraft[]) => void
}

export function Forwards({ forwards, error, onChange }: Props) {
  const changed = (index: number, part: Partial<ForwardDraft>) =>
    onChange(forwards.map((each, at) => (at === index ? { ...each, ...part } : each)))
  return (
    <div role="group" aria-label="Port forwards">
      <span className="field-label">Ports of the host that reach the guest</span>
      {forwards.map((forward, index) => (
        <Group key={index} gap={6} wrap="nowrap" mb={6} align="center">
          <span className="select">
            <select
              aria-label="Protocol"
              value={forward.protocol}
              onChange={(event) => changed(index, { protocol: event.currentTarget.value === 'udp' ? 'udp' : 'tcp' })}
            >
              <option value="tcp">tcp</option>
              <option value="udp">udp</option>
            </select>
          </span>
          <TextInput
            aria-label="Port of the host"
            placeholder="host chooses"
            inputMode="numeric"
            value={forward.hostPort}
            onChange={(event) => changed(index, { hostPort: event.currentTarget.value })}
            style={{ flex: 1 }}
          />
          <span aria-hidden="true">→</span>
          <TextInput
            aria-label="Port of the guest"
            placeholder="guest"
            inputMode="numeric"
            value={forward.guestPort}
            onChange={(event) => changed(index, { guestPort: event.currentTarget.value })}
            style={{ flex: 1 }}
          />
          <ActionIcon aria-label="Remove this forward" onClick={() => onChange(forwards.filter((_, at) => at !== index))}>
            <Icon name="close" size={16} />
          </ActionIcon>
        </Group>
      ))}
      <Button
        size="xs"
        variant="default"
        leftSection={<Icon name="plus" size={15} />}
        onClick={() => onChange([...forwards, NEW_FORWARD])}
        data-testid="add-forward"
      >
        Add a port
      </Button>
      {error !== undefined && <div className="field-error">{error}</div>}
    </div>
  )
}

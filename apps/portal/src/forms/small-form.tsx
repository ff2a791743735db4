/** A form of a few fields in a dialog: sends one body, puts the fault's details at the fields. */
import { Button, Group, Modal, Stack, Tooltip } from '@mantine/core'
import { Fault } from '@typevisor/base'
import { useMutation } from '@tanstack/react-query'
import type { FormEvent, ReactNode } from 'react'
import { messageOf } from '../api/message.ts'
import { FaultAlert } from './fault-alert.tsx'
import { faultErrors, NO_ERRORS, type FieldErrors } from './field-errors.ts'

interface DialogProps {
  readonly opened: boolean
  readonly onClose: () => void
  readonly title: string
  /** `xl`: for what is looked at. */
  readonly size?: 'md' | 'xl'
  readonly children: ReactNode
}

export function FormDialog({ opened, onClose, title, size = 'md', children }: DialogProps) {
  return (
    <Modal
      opened={opened}
      onClose={onClose}
      size={size}
      title={<strong>{title}</strong>}
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      {opened && children}
    </Modal>
  )
}

export interface SmallFormProps<F extends string, T> {
  readonly fields: readonly F[]
  /** The field of a name, where a conflict that names none is said. */
  readonly taken?: F
  readonly send: () => Promise<T>
  readonly onSent: (reply: T) => void
  readonly action: string
  readonly onCancel?: () => void
  readonly disabled?: boolean
  /** Why it cannot be sent now, whatever is in it. */
  readonly refusal?: string
  readonly testId: string
  readonly children: (errors: FieldErrors<F>['at']) => ReactNode
}

export function SmallForm<F extends string, T>({
  fields,
  taken,
  send,
  onSent,
  action,
  onCancel,
  disabled = false,
  refusal,
  testId,
  children,
}: SmallFormProps<F, T>) {
  const sending = useMutation<T>({ mutationFn: send, onSuccess: onSent })
  const { error } = sending
  const errors: FieldErrors<F> =
    error instanceof Fault ? faultErrors(error, fields, taken === undefined ? {} : { taken }) : NO_ERRORS
  const submit = (event: FormEvent) => {
    event.preventDefault()
    sending.mutate()
  }
  const shownAtFields = Object.keys(errors.at).length > 0
  return (
    <form onSubmit={submit} noValidate data-testid={testId}>
      <Stack gap="md">
        <FaultAlert
          title="The platform refused"
          lines={[...(error !== null && !shownAtFields ? [messageOf(error)] : []), ...errors.rest]}
        />
        {children(errors.at)}
        <Group justify="flex-end" gap="xs" mt="xs">
          {onCancel !== undefined && (
            <Button variant="default" onClick={onCancel}>
              Cancel
            </Button>
          )}
          <Tooltip label={refusal ?? ''} disabled={refusal === undefined}>
            <Button type="submit" loading={sending.isPending} disabled={disabled || refusal !== undefined}>
              {action}
            </Button>
          </Tooltip>
        </Group>
      </Stack>
    </form>
  )
}

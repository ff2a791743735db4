/** A form in a dialog that begins an operation: what is accepted is followed, and the dialog closes. */
import type { Operation } from '../api/activity.ts'
import { useActivity } from '../api/activity-provider.tsx'
import { SmallForm, type SmallFormProps } from './small-form.tsx'

interface OperationFormProps<F extends string> extends Omit<
  SmallFormProps<F, { readonly operation: Operation }>,
  'onSent' | 'onCancel'
> {
  /** What it is done to, as people call it. */
  readonly name: string
  readonly onClose: () => void
}

export function OperationForm<F extends string>({ name, onClose, ...form }: OperationFormProps<F>) {
  const { follow } = useActivity()
  return (
    <SmallForm
      {...form}
      onSent={(accepted) => {
        follow(accepted, name)
        onClose()
      }}
      onCancel={onClose}
    />
  )
}

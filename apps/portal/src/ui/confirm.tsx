/** What destroys asks for the name to be typed: a click is too easy, and the name makes sure of the thing. */
import { Button, Group, Modal, Text, TextInput } from '@mantine/core'
import { useState, type FormEvent } from 'react'

interface ConfirmProps {
  readonly opened: boolean
  readonly onClose: () => void
  readonly onConfirm: () => void
  readonly title: string
  /** What will be lost. */
  readonly text: string
  /** What must be typed; for several things, their number. */
  readonly word: string
  readonly action: string
  readonly busy?: boolean
}

export function ConfirmByName(props: ConfirmProps) {
  return (
    <Modal
      opened={props.opened}
      onClose={props.onClose}
      title={<strong>{props.title}</strong>}
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      {props.opened && <ConfirmForm {...props} />}
    </Modal>
  )
}

function ConfirmForm({ onClose, onConfirm, text, word, action, busy = false }: ConfirmProps) {
  const [typed, setTyped] = useState('')
  const matches = typed.trim() === word
  const submit = (event: FormEvent) => {
    event.preventDefault()
    if (matches) onConfirm()
  }
  return (
    <form onSubmit={submit} data-testid="confirm">
      <Text mb="md">{text}</Text>
      <TextInput
        data-autofocus
        label={
          <>
            Type <code className="mono">{word}</code> to go on
          </>
        }
        value={typed}
        onChange={(event) => setTyped(event.currentTarget.value)}
        autoComplete="off"
        spellCheck={false}
        data-testid="confirm-word"
      />
      <Group justify="flex-end" mt="lg" gap="xs">
        <Button variant="default" onClick={onClose}>
          Cancel
        </Button>
        <Button type="submit" color="red" disabled={!matches} loading={busy} data-testid="confirm-go">
          {action}
        </Button>
      </Group>
    </form>
  )
}

/** Asked before what cannot be taken back. What destroys asks for the name to be typed: a click is too easy, and the name makes sure of the thing. */
import { Button, Group, Modal, Text, TextInput } from '@mantine/core'
import { useState, type FormEvent, type ReactNode } from 'react'

interface ConfirmProps {
  readonly opened: boolean
  readonly onClose: () => void
  readonly onConfirm: () => void
  readonly title: string
  /** What will be lost. */
  readonly text: ReactNode
  /** What must be typed; for several things, their number. Left out where nothing is lost that a person could want back. */
  readonly word?: string
  readonly action: string
  readonly busy?: boolean
}

export function Confirm(props: ConfirmProps) {
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
  const matches = word === undefined || typed.trim() === word
  const submit = (event: FormEvent) => {
    event.preventDefault()
    if (matches) onConfirm()
  }
  return (
    <form onSubmit={submit} data-testid="confirm">
      <Text component="div" mb="md" style={{ overflowWrap: 'anywhere' }}>
        {text}
      </Text>
      {word !== undefined && (
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
          autoCapitalize="none"
          spellCheck={false}
          data-testid="confirm-word"
        />
      )}
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

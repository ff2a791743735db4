/** What is asked about one instance in a dialog of its own: the menu's item, and the dialog, which outlives the menu that asked for it. */
import { Menu } from '@mantine/core'
import { createContext, Suspense, useContext, useState, type ComponentType, type ReactNode } from 'react'
import type { Instance } from '../api/verbs.ts'
import { FormDialog } from '../forms/small-form.tsx'
import { Icon, type IconName } from './icons.tsx'

export interface DialogFormProps {
  readonly instance: Instance
  readonly onClose: () => void
}

interface DialogItemProps {
  readonly instance: Instance
  /** Why it cannot be done now; null: it can. */
  readonly reason: string | null
}

export function instanceDialog({
  title,
  icon,
  testId,
  Form,
}: {
  readonly title: string
  readonly icon: IconName
  readonly testId: string
  readonly Form: ComponentType<DialogFormProps>
}) {
  const Asking = createContext<(instance: Instance) => void>(() => undefined)

  /** Stands above the pages. */
  function Provider({ children }: { readonly children: ReactNode }) {
    const [asked, setAsked] = useState<Instance | null>(null)
    const close = () => setAsked(null)
    return (
      <Asking value={setAsked}>
        {children}
        <FormDialog opened={asked !== null} onClose={close} title={`${title} ${asked?.name ?? ''}`}>
          {asked !== null && (
            <Suspense fallback={null}>
              <Form instance={asked} onClose={close} />
            </Suspense>
          )}
        </FormDialog>
      </Asking>
    )
  }

  function Item({ instance, reason }: DialogItemProps) {
    const begin = useContext(Asking)
    return (
      <Menu.Item
        leftSection={<Icon name={icon} size={16} />}
        disabled={reason !== null}
        title={reason ?? undefined}
        onClick={() => begin(instance)}
        data-testid={testId}
      >
        {title}
        {'\u2026'}
      </Menu.Item>
    )
  }
  return { Provider, Item }
}

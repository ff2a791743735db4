import { ActionIcon, Button, Text } from '@mantine/core'
import { useSession } from '../api/session.ts'
import { VERBS, verbsOfAll, type Instance } from '../api/verbs.ts'
import { Icon } from '../ui/icons.tsx'
import { useVerbs } from '../ui/verb-menu.tsx'

/** What can be done with the chosen rows; a verb that reaches only some of them says how many. */
export function BulkBar({ instances, onDone }: { readonly instances: readonly Instance[]; readonly onDone: () => void }) {
  const { account } = useSession()
  const begin = useVerbs()
  const verbs = verbsOfAll(instances, account.role)
  return (
    <section className="bulk" aria-label="Actions on the chosen instances" data-testid="bulk">
      <Text size="sm" fw={560} className="num" role="status">
        {instances.length} chosen
      </Text>
      {verbs.map(({ verb, instances: reached }) => (
        <Button
          key={verb}
          size="xs"
          variant={VERBS[verb].destroys ? 'light' : 'default'}
          {...(VERBS[verb].destroys && { color: 'red' })}
          onClick={() => {
            begin(verb, reached)
            if (!VERBS[verb].destroys) onDone()
          }}
          data-testid={`bulk-${verb}`}
        >
          {VERBS[verb].title}
          {reached.length < instances.length ? ` ${reached.length}` : ''}
        </Button>
      ))}
      {verbs.length === 0 && (
        <Text size="sm" c="dimmed">
          nothing can be done with them now
        </Text>
      )}
      <ActionIcon aria-label="Choose none" onClick={onDone}>
        <Icon name="close" size={16} />
      </ActionIcon>
    </section>
  )
}

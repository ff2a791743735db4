/** What can be said to an operation: to turn round while it runs; when it is stuck, to try its undo again or to let go. */
import { Button } from '@mantine/core'
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { Suspense, useState } from 'react'
import { useActivity } from '../api/activity-provider.tsx'
import { decisionsOf, operationTitle, resourceText, type Decision, type Operation } from '../api/activity.ts'
import { call } from '../api/client.ts'
import { useSession } from '../api/session.ts'
import { lazyPart } from '../lazy-page.ts'
import { useComplaints } from './notices.tsx'

const Confirm = lazyPart(async () => (await import('./confirm.tsx')).Confirm)

const LOOKS: Record<Decision, { text: string; hint: string; refused: string }> = {
  cancel: { text: 'Cancel', hint: 'What it has done so far is undone', refused: 'was not cancelled' },
  retry: { text: 'Try again', hint: 'Try again to undo what it has done so far', refused: 'was not tried again' },
  abandon: { text: 'Abandon\u2026', hint: 'Let go, and leave what is there as it is', refused: 'was not abandoned' },
}

interface OperationButtonsProps {
  readonly operation: Operation
  /** What it is about, where the page knows it better than the operation does. */
  readonly name?: string
}

export function OperationButtons({ operation, name = resourceText(operation) }: OperationButtonsProps) {
  const { account } = useSession()
  const queryClient = useQueryClient()
  const { follow } = useActivity()
  const { complain } = useComplaints()
  const [abandoning, setAbandoning] = useState(false)
  const title = `${operationTitle(operation.name)} ${name}`
  const deciding = useMutation({
    mutationFn: (decision: Decision) => call(`operation.${decision}`, { params: { operation: operation.id } }),
    onSuccess: (told, decision) => {
      if (decision !== 'abandon') follow({ operation: told }, name)
    },
    onError: (error, decision) => complain(`${title} ${LOOKS[decision].refused}`, error),
    onSettled: () => {
      setAbandoning(false)
      // A word to an operation is no event of its own.
      for (const stale of ['operation.list', 'operation.get', 'instance.get', 'instance.list'])
        void queryClient.invalidateQueries({ queryKey: [stale] })
    },
  })
  const decisions = decisionsOf(operation, account.role)
  if (decisions.length === 0) return null
  return (
    <span className="decisions">
      {decisions.map((decision) => (
        <Button
          key={decision}
          size="compact-xs"
          variant={decision === 'abandon' ? 'light' : 'default'}
          {...(decision === 'abandon' && { color: 'red' })}
          title={LOOKS[decision].hint}
          aria-label={`${LOOKS[decision].text.replace('\u2026', '')}: ${title}`}
          loading={deciding.isPending && deciding.variables === decision}
          onClick={() => (decision === 'abandon' ? setAbandoning(true) : deciding.mutate(decision))}
          data-testid={`operation-${decision}`}
        >
          {LOOKS[decision].text}
        </Button>
      ))}
      {decisions.includes('abandon') && (
        <Suspense fallback={null}>
          <Confirm
            opened={abandoning}
            onClose={() => setAbandoning(false)}
            onConfirm={() => deciding.mutate('abandon')}
            busy={deciding.isPending}
            title={`Abandon: ${title}?`}
            text={
              <>
                <p>
                  Nothing more is undone: what is left of it on its host stays as it is. In return {name} is let go of, and can be
                  used, tried again or destroyed.
                </p>
                <p className="dim">Destroying an instance abandons by itself what is stuck on it.</p>
              </>
            }
            action="Abandon"
          />
        </Suspense>
      )}
    </span>
  )
}

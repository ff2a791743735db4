/** How the operations of this tab ended, and what was refused at once. What failed stays until it is dismissed. */
import { ActionIcon, Text } from '@mantine/core'
import { createContext, useCallback, useContext, useEffect, useMemo, useState, type ReactNode } from 'react'
import { useActivity } from '../api/activity-provider.tsx'
import { outcomeOf, type Follow } from '../api/activity.ts'
import { messageOf } from '../api/message.ts'
import { path } from '../paths.ts'
import { Icon, type IconName } from './icons.tsx'
import { TextLink } from './link.tsx'

const DONE_MS = 5_000
/** More than so many that went well are told in one line. */
const DONE_APART_MAX = 2

interface Complaint {
  readonly key: string
  readonly title: string
  readonly text: string
}
interface Complaints {
  /** Says that something was refused, with the server's message. */
  readonly complain: (title: string, error: unknown) => void
}

const ComplaintContext = createContext<Complaints>({ complain: () => undefined })
export const useComplaints = (): Complaints => useContext(ComplaintContext)

let complaintCount = 0

export function NoticeProvider({ children }: { readonly children: ReactNode }) {
  const [complaints, setComplaints] = useState<readonly Complaint[]>([])
  const { notices, dismiss } = useActivity()
  const complain = useCallback((title: string, error: unknown) => {
    complaintCount += 1
    const key = `complaint-${complaintCount}`
    setComplaints((now) => [{ key, title, text: messageOf(error) }, ...now].slice(0, 5))
  }, [])
  const value = useMemo(() => ({ complain }), [complain])
  const failed = notices.filter((follow) => outcomeOf(follow.operation) === 'failed')
  const done = notices.filter((follow) => outcomeOf(follow.operation) !== 'failed')
  return (
    <ComplaintContext value={value}>
      {children}
      <section className="notices" aria-label="Notices" data-testid="notices">
        {failed.slice(0, 4).map((follow) => (
          <FollowNotice key={follow.operation.id} follow={follow} onDismiss={() => dismiss(follow.operation.id)} />
        ))}
        {done.length > DONE_APART_MAX ? (
          <ManyDone count={done.length} onDismiss={() => done.forEach((follow) => dismiss(follow.operation.id))} />
        ) : (
          done.map((follow) => (
            <FollowNotice key={follow.operation.id} follow={follow} onDismiss={() => dismiss(follow.operation.id)} />
          ))
        )}
        {complaints.map((complaint) => (
          <Notice
            key={complaint.key}
            tone="red"
            icon="alert"
            title={complaint.title}
            onDismiss={() => setComplaints((now) => now.filter((each) => each !== complaint))}
          >
            <p>{complaint.text}</p>
          </Notice>
        ))}
      </section>
    </ComplaintContext>
  )
}

function ManyDone({ count, onDismiss }: { readonly count: number; readonly onDismiss: () => void }) {
  useEffect(() => {
    const timer = setTimeout(onDismiss, DONE_MS)
    return () => clearTimeout(timer)
    // Another one that is done starts the time anew.
  }, [count])
  return <Notice tone="green" icon="check" title={`${count} operations are done`} onDismiss={onDismiss} />
}

function FollowNotice({ follow, onDismiss }: { readonly follow: Follow; readonly onDismiss: () => void }) {
  const { operation, title, instance } = follow
  const outcome = outcomeOf(operation)
  const failed = outcome === 'failed'
  useEffect(() => {
    if (failed) return
    const timer = setTimeout(onDismiss, DONE_MS)
    return () => clearTimeout(timer)
    // The timer belongs to the notice, not to the function that each render makes anew.
  }, [failed])
  const ending = failed
    ? operation.state === 'stuck'
      ? 'is stuck'
      : 'failed'
    : outcome === 'cancelled'
      ? 'was cancelled'
      : 'is done'
  return (
    <Notice
      tone={failed ? 'red' : outcome === 'cancelled' ? 'grey' : 'green'}
      icon={failed ? 'alert' : 'check'}
      title={`${title} ${ending}`}
      onDismiss={onDismiss}
    >
      {operation.fault !== null && <p data-testid="notice-fault">{operation.fault.message}</p>}
      {failed && (
        <Text component="div" size="sm" mt={4}>
          {instance !== null && !['instance.create', 'instance.clone', 'instance.copy'].includes(operation.name) ? (
            <TextLink {...path.events(instance)}>Its events</TextLink>
          ) : (
            <TextLink {...path.operations()}>Operations</TextLink>
          )}
        </Text>
      )}
    </Notice>
  )
}

interface NoticeProps {
  readonly tone: 'red' | 'green' | 'grey'
  readonly icon: IconName
  readonly title: string
  readonly children?: ReactNode
  readonly onDismiss: () => void
}

function Notice({ tone, icon, title, children, onDismiss }: NoticeProps) {
  return (
    <div className={`notice tone-${tone}`} role={tone === 'red' ? 'alert' : 'status'} data-testid="notice">
      <Icon name={icon} />
      <div>
        <Text component="div" fw={570} size="sm">
          {title}
        </Text>
        {children}
      </div>
      <ActionIcon size="sm" aria-label="Dismiss" onClick={onDismiss}>
        <Icon name="close" size={14} />
      </ActionIcon>
    </div>
  )
}

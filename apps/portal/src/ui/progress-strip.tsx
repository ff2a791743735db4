import { Progress, Text } from '@mantine/core'
import type { ReactNode } from 'react'
import { percentOf, progressWords, type Operation } from '../api/activity.ts'

interface ProgressStripProps {
  readonly title: string
  readonly operation: Operation | undefined
  readonly actions?: ReactNode
}

/** An operation under way: which step, how far. Without a measure of how far, a moving bar. */
export function ProgressStrip({ title, operation, actions }: ProgressStripProps) {
  const percent = operation === undefined ? null : percentOf(operation)
  return (
    <div className="panel progress-strip" data-testid="progress">
      <div className="progress-head">
        <Text size="sm" fw={560} role="status">
          {operation?.state === 'undoing' ? `${title}: taking it back` : title}
          {operation !== undefined && <span className="dim num">{['', ...progressWords(operation)].join(' · ')}</span>}
        </Text>
        {actions}
      </div>
      <Progress
        value={percent ?? 100}
        animated={percent === null}
        striped={percent === null}
        size="sm"
        aria-label={`Progress of ${title}`}
      />
    </div>
  )
}

import { Progress, Text } from '@mantine/core'
import type { Operation } from '../api/activity.ts'

/** An operation under way: which step, how far. Without a measure of how far, a moving bar. */
export function ProgressStrip({ title, operation }: { readonly title: string; readonly operation: Operation | undefined }) {
  const percent = operation?.progress == null ? null : Math.round(operation.progress * 100)
  return (
    <div className="panel progress-strip" data-testid="progress">
      <Text size="sm" fw={560} mb={8} role="status">
        {operation?.state === 'undoing' ? `${title}: taking it back` : title}
        {operation?.step != null && <span className="dim"> · {operation.step}</span>}
        {percent !== null && <span className="dim num"> · {percent} %</span>}
      </Text>
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

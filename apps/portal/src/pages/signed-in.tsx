import { ActivityProvider } from '../api/activity-provider.tsx'
import { LiveProvider } from '../api/event-source.tsx'
import { NoticeProvider } from '../ui/notices.tsx'
import { Shell } from '../ui/shell.tsx'
import { VerbProvider } from '../ui/verb-menu.tsx'

/** What every page of a signed-in person stands in: the stream of events, the operations followed, their notices, the verbs. */
export function SignedIn() {
  return (
    <LiveProvider>
      <ActivityProvider>
        <NoticeProvider>
          <VerbProvider>
            <Shell />
          </VerbProvider>
        </NoticeProvider>
      </ActivityProvider>
    </LiveProvider>
  )
}

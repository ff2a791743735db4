/**
 * What is known of the host's volume server: told to whoever asks, and noted as events of the host, each once.
 *
 *   keeper --changed, heard--> watch --what is new--> the toolstack's journal --at least once--> server
 *
 * The journal's newest note says what was known before, also by an agent that died: a server that is another one than noted went away while
 * nobody watched. What happens before the journal is open waits here; when the agent dies meanwhile, the next one finds it by that.
 */
import { toFault, type Clock, type Log } from '@typevisor/base'
import { spaceState, type HostEvent, type VolumeServerCause } from '@typevisor/model'
import type { VolumeServerStatus } from '@typevisor/api/agent-wire'
import type { ServerHello } from '@typevisor/storage'
import type { Toolstack } from '@typevisor/toolstack'
import type { VolumeServerChange, VolumeServerWatcher } from './keeper.ts'

type Journal = Pick<Toolstack, 'notePart' | 'newestOf'>
type Note = Parameters<Journal['notePart']>[0]

export interface VolumeServerWatch extends VolumeServerWatcher {
  status(): VolumeServerStatus
  /** What happened so far is noted, and from now on what happens. */
  noteIn(journal: Journal): void
  /** It will be stopped with the agent. Resolves when this and all before is noted; what comes after is not. */
  stops(): Promise<void>
  /** The agent goes, and leaves it. Resolves as `stops` does. */
  close(): Promise<void>
}

export function watchVolumeServer({ clock, log }: { readonly clock: Clock; readonly log: Log }): VolumeServerWatch {
  let hello: ServerHello | null = null
  let state: Pick<VolumeServerStatus, 'state' | 'since' | 'cause' | 'detail'> = {
    state: 'away',
    since: clock.now(),
    cause: 'unknown',
    detail: null,
  }
  const opened = Promise.withResolvers<Journal>()
  let isOpen = false
  let isClosed = false
  let noted: Promise<void> = Promise.resolve()
  /** `news`: what is to be noted, seen from what the journal has. */
  const note = (news: (journal: Journal) => readonly Note[]): void => {
    if (isClosed) return
    noted = noted.then(async () => {
      const journal = await opened.promise
      try {
        for (const each of news(journal)) await journal.notePart(each)
      } catch (error) {
        log.error('volumes.not_noted', { error: toFault(error).message })
      }
    })
  }
  const close = async (): Promise<void> => {
    isClosed = true
    if (isOpen) await noted
  }
  return {
    changed(change) {
      const { to, cause } = change
      hello = change.hello ?? hello
      const detail = change.to === 'away' ? change.detail : null
      // What keeps failing has failed since it first did.
      if (state.state !== to || state.cause !== cause) state = { state: to, since: clock.now(), cause, detail }
      note((journal) => newsOf(change, journal.newestOf('volume-server')))
    },
    heard(now) {
      hello = now
      note((journal) => newsOfSpace(now, journal.newestOf('space')))
    },
    status: () => ({
      ...state,
      version: hello?.version ?? null,
      pid: hello?.pid ?? null,
      startedAt: hello?.startedAt ?? null,
      attachedCount: state.state === 'serving' ? (hello?.attachmentCount ?? 0) : 0,
      space: state.state === 'serving' && hello?.space ? spaceOf(hello.space) : null,
    }),
    noteIn(journal) {
      isOpen = true
      opened.resolve(journal)
    },
    async stops() {
      note((journal) => (journal.newestOf('volume-server')?.to === 'serving' ? [serverNote('away', 'stopped', null, hello)] : []))
      await close()
    },
    close,
  }
}

const spaceOf = ({ usedBytes, availableBytes, capacityBytes, warningPercent, limitedBy }: NonNullable<ServerHello['space']>) => ({
  usedBytes,
  availableBytes,
  capacityBytes,
  warningPercent,
  limitedBy,
})

function serverNote(
  to: 'serving' | 'away',
  cause: VolumeServerCause,
  detail: string | null,
  hello: ServerHello | null,
  reconstructed = false,
): Note {
  const facts = hello ? { pid: hello.pid, startedAt: hello.startedAt, version: hello.version } : {}
  return { part: 'volume-server', to, cause, detail, reconstructed, facts }
}

/** What the journal lacks. One that keeps failing is noted once. */
function newsOf(change: VolumeServerChange, newest: HostEvent | null): readonly Note[] {
  if (change.to === 'away') {
    const isKnown = newest?.to === 'away' && newest.cause === change.cause
    return isKnown ? [] : [serverNote('away', change.cause, change.detail, change.hello)]
  }
  const { hello, cause } = change
  const serving = serverNote('serving', cause, null, hello)
  if (newest?.to !== 'serving') return [serving]
  if (newest.facts['pid'] === hello.pid && newest.facts['startedAt'] === hello.startedAt) return []
  return [{ ...serverNote('away', 'unknown', null, null, true), facts: newest.facts }, serving]
}

function newsOfSpace({ space }: ServerHello, newest: HostEvent | null): readonly Note[] {
  if (!space) return []
  const to = spaceState(space.warningPercent)
  if (to === (newest?.to ?? spaceState(null))) return []
  const facts = { usedBytes: space.usedBytes, availableBytes: space.availableBytes }
  return [{ part: 'space', to, cause: space.limitedBy, detail: null, reconstructed: false, facts }]
}

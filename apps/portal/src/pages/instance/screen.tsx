/** The guest's screen: noVNC over a WebSocket of RFB bytes. The session's life is in `screen-session.ts`; here is only the glass. */
import { ActionIcon, Button, Tooltip } from '@mantine/core'
import RFB from '@novnc/novnc'
import { useEffect, useRef, useState, type RefObject } from 'react'
import { client } from '../../api/client.ts'
import type { Instance } from '../../api/verbs.ts'
import { path } from '../../paths.ts'
import { Icon, type IconName } from '../../ui/icons.tsx'
import { TextLink } from '../../ui/link.tsx'
import { Badge } from '../../ui/state-badge.tsx'
import { interruptibleWait } from './console-ports.ts'
import { LIVE, useInstance } from './instance.tsx'
import { KeysMenu, PictureButton } from './screen-tools.tsx'
import { ScreenSession, type ScreenHandlers, type ScreenStatus } from './screen-session.ts'

/** Keysyms of X11 (keysymdef.h). */
const CONTROL_LEFT = 0xffe3
const SHIFT_LEFT = 0xffe1

interface Glass {
  readonly session: ScreenSession
  /** The connection there is now. */
  readonly rfb: () => RFB | null
}

export function Screen() {
  const instance = useInstance()
  const target = useRef<HTMLDivElement>(null)
  const frame = useRef<HTMLElement>(null)
  const [glass, setGlass] = useState<Glass | null>(null)
  const [status, setStatus] = useState<ScreenStatus>({ kind: 'connecting' })
  const live = LIVE.has(instance.state.kind)
  const isLive = useRef(live)
  isLive.current = live

  useEffect(() => {
    const element = target.current
    if (element === null) return
    const opened = openGlass(element, instance.id, () => isLive.current, setStatus)
    setGlass(opened)
    return () => {
      opened.session.close()
      setGlass(null)
    }
  }, [instance.id])

  useEffect(() => {
    if (glass === null) return
    if (live && status.kind === 'ended') void glass.session.run()
    else glass.session.retry()
  }, [live])

  return (
    <section
      ref={frame}
      className="panel console screen"
      aria-label={`Screen of ${instance.name}`}
      data-testid="screen"
      data-status={status.kind}
      onKeyDownCapture={(event) => {
        if (!(event.ctrlKey && event.shiftKey && event.code === 'KeyL')) return
        event.preventDefault()
        event.stopPropagation()
        leaveKeys(glass?.rfb() ?? null, frame.current)
      }}
    >
      <ScreenBar instance={instance} glass={glass} status={status} frame={frame} />
      <div className="screen-glass">
        <div className="screen-target" ref={target} data-testid="screen-target" />
        {status.kind !== 'open' && (
          <div className="screen-word" role="status">
            <Icon name={status.kind === 'ended' ? 'power' : status.kind === 'refused' ? 'info' : 'instance'} size={36} />
            <span>{'reason' in status ? status.reason : 'Connecting\u2026'}</span>
            {status.kind === 'refused' && (
              <span>
                What it says on its serial line is on the{' '}
                <TextLink {...path.console(instance.name)} c="inherit" td="underline">
                  Console
                </TextLink>
                .
              </span>
            )}
          </div>
        )}
      </div>
    </section>
  )
}

function openGlass(
  target: HTMLElement,
  instanceId: string,
  live: () => boolean,
  onStatus: (status: ScreenStatus) => void,
): Glass {
  let current: RFB | null = null
  const connect = (handlers: ScreenHandlers) => {
    const socket = new WebSocket(client.stream('instance.vnc', { params: { instance: instanceId } }).url)
    let reason = ''
    // Before noVNC listens, which says `disconnect` as soon as it hears of the close.
    socket.addEventListener('close', (event) => {
      ;({ reason } = event)
    })
    const rfb = new RFB(target, socket, { shared: true })
    rfb.scaleViewport = true
    rfb.background = 'transparent'
    rfb.addEventListener('connect', () => {
      current = rfb
      handlers.onOpen()
      if (matchMedia('(pointer: fine)').matches) rfb.focus({ preventScroll: true })
    })
    // By itself when the bytes made no sense.
    rfb.addEventListener('disconnect', () => {
      if (current === rfb) current = null
      handlers.onClose(reason)
    })
    return { close: () => rfb.disconnect() }
  }
  const session = new ScreenSession({
    connect,
    live,
    status: onStatus,
    random: Math.random,
    wait: interruptibleWait,
  })
  void session.run()
  return { session, rfb: () => current }
}

/** A screen takes every key, Tab too. Ctrl+Shift+L leaves, for those who have no pointer; the guest is told that both were released. */
function leaveKeys(rfb: RFB | null, frame: HTMLElement | null): void {
  rfb?.sendKey(CONTROL_LEFT, 'ControlLeft', false)
  rfb?.sendKey(SHIFT_LEFT, 'ShiftLeft', false)
  rfb?.blur()
  frame?.querySelector<HTMLElement>('button')?.focus()
}

const STATUS: Record<ScreenStatus['kind'], { tone: 'blue' | 'green' | 'amber' | 'grey'; text: string; busy?: boolean }> = {
  connecting: { tone: 'blue', text: 'Connecting', busy: true },
  open: { tone: 'green', text: 'Connected' },
  waiting: { tone: 'amber', text: 'Reconnecting', busy: true },
  ended: { tone: 'grey', text: 'Off' },
  refused: { tone: 'grey', text: 'No screen' },
}

interface BarProps {
  readonly instance: Instance
  readonly glass: Glass | null
  readonly status: ScreenStatus
  readonly frame: RefObject<HTMLElement | null>
}

function ScreenBar({ instance, glass, status, frame }: BarProps) {
  const sendCtrlAltDel = () => {
    glass?.rfb()?.sendCtrlAltDel()
    glass?.rfb()?.focus({ preventScroll: true })
  }
  const fullscreen = () => {
    if (document.fullscreenElement === null) void frame.current?.requestFullscreen()
    else void document.exitFullscreen()
    glass?.rfb()?.focus({ preventScroll: true })
  }
  const button = (icon: IconName, label: string, act: () => void) => (
    <Tooltip label={label}>
      <ActionIcon aria-label={label} onClick={act}>
        <Icon name={icon} size={17} />
      </ActionIcon>
    </Tooltip>
  )
  return (
    <div className="console-bar" role="toolbar" aria-label="Screen" data-mantine-color-scheme="dark">
      <span role="status" data-testid="screen-status">
        <Badge {...STATUS[status.kind]} />
      </span>
      <span className="clip" style={{ flex: 1, opacity: 0.75 }}>
        {status.kind === 'open' && 'A guest that talks on its serial line shows little here: see its Console.'}
      </span>
      {status.kind === 'waiting' && (
        <Button size="compact-xs" variant="default" onClick={() => glass?.session.retry()}>
          Try now
        </Button>
      )}
      <Button
        className="spare"
        size="compact-xs"
        variant="default"
        disabled={status.kind !== 'open'}
        onClick={sendCtrlAltDel}
        data-testid="ctrl-alt-del"
      >
        Ctrl+Alt+Del
      </Button>
      <KeysMenu instance={instance} frame={frame} />
      <PictureButton instance={instance} />
      {button('expand', 'Full screen; Ctrl+Shift+L leaves the screen', fullscreen)}
    </div>
  )
}

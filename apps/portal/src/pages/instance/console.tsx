/** The serial console: xterm.js over a WebSocket of bytes. The session's life is in `console-session.ts`; here is only the glass. */
import '@xterm/xterm/css/xterm.css'
import { ActionIcon, Button, Tooltip } from '@mantine/core'
import { FitAddon } from '@xterm/addon-fit'
import { Terminal } from '@xterm/xterm'
import { useEffect, useRef, useState } from 'react'
import { useComplaints } from '../../ui/notices.tsx'
import { copyText } from '../../ui/copy.tsx'
import { Icon, type IconName } from '../../ui/icons.tsx'
import { Badge } from '../../ui/state-badge.tsx'
import { browserConsolePorts } from './console-ports.ts'
import { ConsoleSession, type ConsoleStatus } from './console-session.ts'
import { LIVE, useInstance } from './instance.tsx'

const SCROLLBACK_LINES = 20_000
const THEME = {
  background: '#10141a',
  foreground: '#d6dbe4',
  cursor: '#9db4ff',
  cursorAccent: '#10141a',
  selectionBackground: '#3a4d8f88',
  black: '#1d232c',
  red: '#f0837e',
  green: '#6fcb97',
  yellow: '#e3b562',
  blue: '#86aaf5',
  magenta: '#c0a2f2',
  cyan: '#6cc7d1',
  white: '#c9d0db',
  brightBlack: '#6b7686',
  brightRed: '#ff9f9a',
  brightGreen: '#8fe0b1',
  brightYellow: '#f4cd85',
  brightBlue: '#a9c3ff',
  brightMagenta: '#d6c0ff',
  brightCyan: '#93e0e8',
  brightWhite: '#f2f5f9',
}

interface Glass {
  readonly terminal: Terminal
  readonly fit: FitAddon
  readonly session: ConsoleSession
}

export function Console() {
  const instance = useInstance()
  const glass = useRef<HTMLDivElement>(null)
  const frame = useRef<HTMLElement>(null)
  const [screen, setScreen] = useState<Glass | null>(null)
  const [status, setStatus] = useState<ConsoleStatus>({ kind: 'connecting' })
  const live = LIVE.has(instance.state.kind)
  const isLive = useRef(live)
  isLive.current = live

  useEffect(() => {
    const element = glass.current
    if (element === null) return
    const opened = openScreen(element, instance.id, () => isLive.current, setStatus)
    setScreen(opened)
    return () => {
      opened.session.close()
      opened.terminal.dispose()
      setScreen(null)
    }
  }, [instance.id])

  // Started again after its end: the session that rested is run anew and goes on from the byte it had.
  useEffect(() => {
    if (screen === null || !live) return
    if (status.kind === 'ended') void screen.session.run()
    else screen.session.retry()
  }, [live])

  return (
    <section
      ref={frame}
      className="panel console"
      aria-label={`Serial console of ${instance.name}`}
      data-testid="console"
      data-status={status.kind}
    >
      <ConsoleBar screen={screen} status={status} frame={frame} />
      <div className="console-screen" ref={glass} data-testid="console-screen" />
    </section>
  )
}

function openScreen(
  element: HTMLElement,
  instanceId: string,
  live: () => boolean,
  onStatus: (status: ConsoleStatus) => void,
): Glass {
  const terminal = new Terminal({
    scrollback: SCROLLBACK_LINES,
    fontFamily: 'ui-monospace, SFMono-Regular, "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace',
    fontSize: element.clientWidth < 520 ? 11 : 13,
    lineHeight: 1.2,
    theme: THEME,
    cursorBlink: !matchMedia('(prefers-reduced-motion: reduce)').matches,
    screenReaderMode: true,
    macOptionIsMeta: true,
  })
  const fit = new FitAddon()
  terminal.loadAddon(fit)
  terminal.open(element)
  fit.fit()
  const session = new ConsoleSession(
    browserConsolePorts({
      instanceId,
      live,
      status: onStatus,
      show: (content) => terminal.write(content),
      note: (text) => terminal.write(`\r\n\x1b[0;33m[${text}]\x1b[0m\r\n`),
    }),
  )
  const encoder = new TextEncoder()
  terminal.onData((text) => session.type(encoder.encode(text)))
  terminal.onBinary((text) => session.type(Uint8Array.from(text, (character) => character.charCodeAt(0) & 0xff)))
  terminal.attachCustomKeyEventHandler((event) => ownKeys(event, terminal))
  const observer = new ResizeObserver(() => fit.fit())
  observer.observe(element)
  const dispose = terminal.dispose.bind(terminal)
  terminal.dispose = () => {
    observer.disconnect()
    dispose()
  }
  void session.run()
  if (matchMedia('(pointer: fine)').matches) terminal.focus()
  return { terminal, fit, session }
}

/** A terminal takes every key, Tab too. Ctrl+Shift+C copies; Ctrl+Shift+L leaves, for those who have no pointer. */
function ownKeys(event: KeyboardEvent, terminal: Terminal): boolean {
  if (event.type !== 'keydown' || !event.ctrlKey || !event.shiftKey) return true
  if (event.code === 'KeyC') {
    event.preventDefault()
    void copyText(terminal.getSelection()).then(() => terminal.focus())
    return false
  }
  if (event.code === 'KeyL') {
    event.preventDefault()
    terminal.blur()
    document.querySelector<HTMLElement>('[data-testid="console"] button')?.focus()
    return false
  }
  // The browser pastes; xterm.js takes it from the paste event.
  return event.code !== 'KeyV'
}

const STATUS: Record<ConsoleStatus['kind'], { tone: 'blue' | 'green' | 'amber' | 'grey'; text: string; busy?: boolean }> = {
  connecting: { tone: 'blue', text: 'Connecting', busy: true },
  open: { tone: 'green', text: 'Connected' },
  waiting: { tone: 'amber', text: 'Reconnecting', busy: true },
  ended: { tone: 'grey', text: 'Off' },
}

interface BarProps {
  readonly screen: Glass | null
  readonly status: ConsoleStatus
  readonly frame: React.RefObject<HTMLElement | null>
}

function ConsoleBar({ screen, status, frame }: BarProps) {
  const { complain } = useComplaints()
  const paste = async () => {
    if (screen === null) return
    try {
      screen.terminal.paste(await navigator.clipboard.readText())
    } catch (error) {
      complain('The browser does not give its clipboard; paste with Ctrl+Shift+V', error)
    }
    screen.terminal.focus()
  }
  const copy = async () => {
    if (screen === null) return
    await copyText(screen.terminal.hasSelection() ? screen.terminal.getSelection() : wholeText(screen.terminal))
    screen.terminal.focus()
  }
  /** A serial line carries no size, so the shell is told in its own words. */
  const tellSize = () => {
    if (screen === null) return
    screen.session.type(new TextEncoder().encode(`stty rows ${screen.terminal.rows} cols ${screen.terminal.cols}\r`))
    screen.terminal.focus()
  }
  const fullscreen = () => {
    if (document.fullscreenElement === null) void frame.current?.requestFullscreen()
    else void document.exitFullscreen()
    screen?.terminal.focus()
  }
  const button = (icon: IconName, label: string, act: () => void, disabled = false) => (
    <Tooltip label={label}>
      <ActionIcon aria-label={label} onClick={act} disabled={screen === null || disabled}>
        <Icon name={icon} size={17} />
      </ActionIcon>
    </Tooltip>
  )
  return (
    <div className="console-bar" role="toolbar" aria-label="Console" data-mantine-color-scheme="dark">
      <span role="status" data-testid="console-status">
        <Badge {...STATUS[status.kind]} title={'reason' in status ? status.reason : undefined} />
      </span>
      <span className="clip" style={{ flex: 1, opacity: 0.75 }}>
        {'reason' in status ? status.reason : ''}
      </span>
      {status.kind === 'waiting' && (
        <Button size="compact-xs" variant="default" onClick={() => screen?.session.retry()}>
          Try now
        </Button>
      )}
      {button('copy', 'Copy the selection, or everything (Ctrl+Shift+C)', () => void copy())}
      {button('paste', 'Paste (Ctrl+Shift+V)', () => void paste(), status.kind !== 'open')}
      {button('fit', 'Tell the shell the size of this window (stty)', tellSize, status.kind !== 'open')}
      {button('expand', 'Full screen; Ctrl+Shift+L leaves the terminal', fullscreen)}
    </div>
  )
}

function wholeText(terminal: Terminal): string {
  const { active } = terminal.buffer
  const lines = Array.from({ length: active.length }, (_, index) => active.getLine(index)?.translateToString(true) ?? '')
  return lines.join('\n').trimEnd()
}

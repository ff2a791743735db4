/** What goes through the agent in the guest: commands, files, passwords of its accounts. */
import { Button, Text, TextInput, Tooltip } from '@mantine/core'
import { Fault, formatBytes } from '@typevisor/base'
import { useMutation, useQuery } from '@tanstack/react-query'
import { useId, useRef, useState, type ReactNode } from 'react'
import { fromBase64, toBase64 } from '../../api/base64.ts'
import { call } from '../../api/client.ts'
import { faultLines, messageOf } from '../../api/message.ts'
import { useSession } from '../../api/session.ts'
import { guestRefusal, isAway, type Instance } from '../../api/verbs.ts'
import { FaultAlert } from '../../forms/fault-alert.tsx'
import { fieldErrors } from '../../forms/field-errors.ts'
import { PasswordField } from '../../forms/password-field.tsx'
import { SmallForm } from '../../forms/small-form.tsx'
import { WORD_PROPS } from '../../forms/word-props.ts'
import { download } from '../../ui/download.ts'
import { Icon } from '../../ui/icons.tsx'
import { Panel } from '../../ui/page.tsx'
import { addressesQuery } from './addresses.ts'
import { Command } from './command.tsx'
import { nameOf, readWhole, textOf, writeWhole, type Going } from './guest-file.ts'
import { useInstance } from './instance.tsx'

export function Guest() {
  const instance = useInstance()
  return (
    <div className="stack">
      <AgentNotice instance={instance} />
      <Command />
      <div className="grid">
        <ReadFile instance={instance} />
        <PutFile instance={instance} />
        <SetPassword instance={instance} />
      </div>
    </div>
  )
}

/** Said before anybody tries: all of the page wants somebody in the guest who answers. */
function AgentNotice({ instance }: { readonly instance: Instance }) {
  const { kind } = instance.state
  const isOn = kind === 'running' && !isAway(instance)
  const addresses = useQuery(addressesQuery(instance, isOn))
  const fault = isOn && addresses.data === undefined ? addresses.error : null
  if (isAway(instance) || (isOn && fault === null)) return null
  return (
    <div className={`notice flat ${isOn ? 'tone-amber' : 'tone-grey'}`} role="status" data-testid="agent-notice">
      <Icon name="info" />
      <div>
        <strong>{isOn ? 'No agent answers in the guest' : `It is ${kind}`}</strong>
        <p title={fault === null ? undefined : messageOf(fault)}>
          Commands, files and passwords go through the agent in the guest (qemu-guest-agent)
          {fault === null
            ? ', which answers while it runs.'
            : '. It may still be booting, or has none; it is asked again every few seconds.'}
        </p>
      </div>
    </div>
  )
}

/** A transfer of this page: one at a time, and it can be called off. */
function useTransfer<V, T>(transfer: (asked: V, going: Going) => Promise<T>) {
  const [count, setCount] = useState(0)
  const stop = useRef<AbortController | null>(null)
  const going = useMutation({
    mutationFn: (asked: V) => {
      const { signal } = (stop.current = new AbortController())
      setCount(0)
      return transfer(asked, { signal, onBytes: setCount })
    },
  })
  return { ...going, count, cancel: () => stop.current?.abort() }
}

interface TransferFootProps {
  readonly action: string
  readonly refusal: string | null
  readonly disabled: boolean
  readonly transfer: { readonly isPending: boolean; readonly count: number; readonly cancel: () => void }
}

function TransferFoot({ action, refusal, disabled, transfer: { isPending, count, cancel } }: TransferFootProps) {
  return (
    <div style={{ display: 'flex', flexDirection: 'row-reverse', alignItems: 'center', flexWrap: 'wrap', gap: 8 }}>
      <Tooltip label={refusal ?? ''} disabled={refusal === null}>
        <Button type="submit" loading={isPending} disabled={disabled || refusal !== null}>
          {action}
        </Button>
      </Tooltip>
      {isPending && (
        <>
          <Button variant="default" onClick={cancel}>
            Cancel
          </Button>
          <Text size="sm" c="dimmed" className="num" role="status">
            {formatBytes(count)}
          </Text>
        </>
      )}
    </div>
  )
}

/** What the server says of the path, for its field. */
const pathError = (error: Error | null): string | undefined =>
  error instanceof Fault ? fieldErrors(error.details, ['path']).at.path : undefined

const PathField = ({
  label,
  value,
  onChange,
  error,
  testId,
  description,
}: {
  readonly label: string
  readonly description?: string
  readonly value: string
  readonly onChange: (path: string) => void
  readonly error: string | undefined
  readonly testId: string
}) => (
  <TextInput
    label={label}
    {...(description !== undefined && { description })}
    placeholder="/etc/motd"
    value={value}
    onChange={(event) => onChange(event.currentTarget.value)}
    error={error}
    styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)' } }}
    data-testid={testId}
    {...WORD_PROPS}
  />
)

const FileForm = ({
  onSubmit,
  testId,
  children,
}: {
  readonly onSubmit: () => void
  readonly testId: string
  readonly children: ReactNode
}) => (
  <form
    className="stack"
    style={{ gap: 12 }}
    onSubmit={(event) => {
      event.preventDefault()
      onSubmit()
    }}
    noValidate
    data-testid={testId}
  >
    {children}
  </form>
)

function ReadFile({ instance }: { readonly instance: Instance }) {
  const { account } = useSession()
  const [path, setPath] = useState('')
  const params = { instance: instance.id }
  const reading = useTransfer(async (asked: string, going) => {
    const content = await readWhole(async (from, limitBytes, signal) => {
      const query = { path: asked, from, limitBytes }
      return fromBase64((await call('instance.file-get', { params, query }, { signal })).contentBase64)
    }, going)
    return { path: asked, content }
  })
  const { data } = reading
  const badPath = pathError(reading.error)
  return (
    <Panel title="Read a file" testId="read-file">
      <FileForm onSubmit={() => reading.mutate(path.trim())} testId="read-file-form">
        <PathField label="Path in the guest" value={path} onChange={setPath} error={badPath} testId="field-read-path" />
        <TransferFoot
          action="Read it"
          refusal={guestRefusal('instance.file-get', instance, account.role)}
          disabled={path.trim() === ''}
          transfer={reading}
        />
        {reading.error !== null && badPath === undefined && (
          <FaultAlert title="The file was not read" lines={faultLines(reading.error)} />
        )}
        {data !== undefined && <FileRead {...data} />}
      </FileForm>
    </Panel>
  )
}

function FileRead({ path, content }: { readonly path: string; readonly content: Uint8Array<ArrayBuffer> }) {
  const text = textOf(content)
  return (
    <div role="status" data-testid="file-read">
      <div style={{ display: 'flex', alignItems: 'center', flexWrap: 'wrap', gap: 8 }}>
        <Text size="sm" style={{ overflowWrap: 'anywhere', flex: 1 }}>
          <span className="mono">{path}</span> <span className="dim num">{formatBytes(content.length)}</span>
        </Text>
        <Button
          variant="default"
          size="compact-sm"
          leftSection={<Icon name="save" size={15} />}
          onClick={() => download(content, nameOf(path))}
          data-testid="download"
        >
          Download
        </Button>
      </div>
      {text !== null && text !== '' && (
        <pre className="output" aria-label={`Content of ${path}`} tabIndex={0} style={{ marginTop: 10 }}>
          {text}
        </pre>
      )}
    </div>
  )
}

function PutFile({ instance }: { readonly instance: Instance }) {
  const { account } = useSession()
  const [file, setFile] = useState<File | null>(null)
  const [path, setPath] = useState('')
  const fileId = useId()
  const params = { instance: instance.id }
  const putting = useTransfer(async (asked: { readonly file: File; readonly path: string }, going) => {
    const content = new Uint8Array(await asked.file.arrayBuffer())
    await writeWhole(
      content,
      async (piece, append, signal) => {
        const body = { path: asked.path, contentBase64: toBase64(piece), append }
        await call('instance.file-put', { params, body }, { signal })
      },
      going,
    )
    return { path: asked.path, sizeBytes: content.length }
  })
  const badPath = pathError(putting.error)
  const choose = (chosen: File | null) => {
    setFile(chosen)
    if (chosen !== null && (path === '' || path.endsWith('/'))) setPath(`${path === '' ? '/tmp/' : path}${chosen.name}`)
  }
  return (
    <Panel title="Put a file" testId="put-file">
      <FileForm onSubmit={() => file !== null && putting.mutate({ file, path: path.trim() })} testId="put-file-form">
        <div>
          <label className="field-label" htmlFor={fileId}>
            File of this computer
          </label>
          <input
            id={fileId}
            className="file-input"
            type="file"
            onChange={(event) => choose(event.currentTarget.files?.[0] ?? null)}
            data-testid="field-file"
          />
        </div>
        <PathField
          label="Path in the guest"
          description="What is there under this name is replaced"
          value={path}
          onChange={setPath}
          error={badPath}
          testId="field-put-path"
        />
        <TransferFoot
          action="Put it"
          refusal={guestRefusal('instance.file-put', instance, account.role)}
          disabled={file === null || path.trim() === ''}
          transfer={putting}
        />
        {putting.error !== null && badPath === undefined && (
          <FaultAlert title="The file was not put whole" lines={faultLines(putting.error)} />
        )}
        {putting.data !== undefined && (
          <Text size="sm" role="status" style={{ overflowWrap: 'anywhere' }} data-testid="file-put">
            <span className="mono">{putting.data.path}</span> is written,{' '}
            <span className="num">{formatBytes(putting.data.sizeBytes)}</span>.
          </Text>
        )}
      </FileForm>
    </Panel>
  )
}

function SetPassword({ instance }: { readonly instance: Instance }) {
  const { account } = useSession()
  const [user, setUser] = useState('root')
  const [password, setPassword] = useState('')
  const [done, setDone] = useState<string | null>(null)
  const refusal = guestRefusal('instance.password', instance, account.role)
  return (
    <Panel title="Set a password" testId="set-password">
      <SmallForm
        fields={['user', 'password']}
        send={async () => {
          setDone(null)
          await call('instance.password', { params: { instance: instance.id }, body: { user: user.trim(), password } })
        }}
        onSent={() => {
          setDone(user.trim())
          setPassword('')
        }}
        action="Set it"
        {...(refusal !== null && { refusal })}
        disabled={user.trim() === '' || password === ''}
        testId="password-form"
      >
        {(errors) => (
          <>
            <TextInput
              label="Account in the guest"
              value={user}
              onChange={(event) => setUser(event.currentTarget.value)}
              error={errors.user}
              data-testid="field-user"
              {...WORD_PROPS}
            />
            <PasswordField
              label="New password"
              autoComplete="new-password"
              value={password}
              onChange={setPassword}
              error={errors.password}
            />
            {done !== null && (
              <Text size="sm" role="status" data-testid="password-set">
                The password of <span className="mono">{done}</span> is set.
              </Text>
            )}
          </>
        )}
      </SmallForm>
    </Panel>
  )
}

import { Button, Text, TextInput } from '@mantine/core'
import type { Reply } from '@typevisor/api'
import { useMutation } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { fromBase64 } from '../../api/base64.ts'
import { call } from '../../api/client.ts'
import { faultLines } from '../../api/message.ts'
import { useSession } from '../../api/session.ts'
import { guestRefusal } from '../../api/verbs.ts'
import { FaultAlert } from '../../forms/fault-alert.tsx'
import { Panel } from '../../ui/page.tsx'
import { lasting } from '../../ui/time.ts'
import { parseCommandLine } from './command-line.ts'
import { useInstance } from './instance.tsx'

/** Runs one command in the guest through its agent: an argument vector, no shell. */
export function Command() {
  const instance = useInstance()
  const [text, setText] = useState('uname -a')
  const running = useMutation({
    mutationFn: async (argv: readonly string[]) => {
      const begun = performance.now()
      const reply = await call('instance.exec', { params: { instance: instance.id }, body: { argv: [...argv] } })
      return { reply, argv, durationMs: performance.now() - begun }
    },
  })
  const line = parseCommandLine(text)
  const submit = (event: FormEvent) => {
    event.preventDefault()
    if (line.ok) running.mutate(line.argv)
  }
  const { account } = useSession()
  const reason = guestRefusal('instance.exec', instance, account.role)
  return (
    <Panel title="Run a command in the guest">
      <form onSubmit={submit} style={{ display: 'flex', gap: 8, alignItems: 'flex-start' }}>
        <TextInput
          aria-label="Command"
          description="Run by the guest's agent, without a shell; use sh -c '…' for pipes"
          inputWrapperOrder={['label', 'input', 'description', 'error']}
          style={{ flex: 1 }}
          styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)' } }}
          value={text}
          onChange={(event) => setText(event.currentTarget.value)}
          error={line.ok || text === '' ? undefined : `The command ${line.reason}`}
          spellCheck={false}
          autoComplete="off"
          autoCapitalize="none"
          data-testid="command"
        />
        <Button type="submit" loading={running.isPending} disabled={!line.ok || reason !== null} title={reason ?? undefined}>
          Run
        </Button>
      </form>
      {(running.error !== null || running.data !== undefined) && (
        <div style={{ marginTop: 16, display: 'grid', gap: 10 }}>
          {running.error !== null && <FaultAlert title="The command was not run to its end" lines={faultLines(running.error)} />}
          {running.data !== undefined && <Output {...running.data} />}
        </div>
      )}
    </Panel>
  )
}

const decode = (base64: string): string => new TextDecoder().decode(fromBase64(base64))

function Output({
  reply,
  argv,
  durationMs,
}: {
  readonly reply: Reply<'instance.exec'>
  readonly argv: readonly string[]
  readonly durationMs: number
}) {
  const ending = reply.signal !== null ? `ended by signal ${reply.signal}` : `exit code ${reply.exitCode}`
  const streams = [
    { title: 'Output', text: decode(reply.stdoutBase64) },
    { title: 'Errors', text: decode(reply.stderrBase64) },
  ].filter((stream) => stream.text !== '')
  return (
    <div role="status" data-testid="command-output">
      <Text size="sm" c="dimmed" mb={8}>
        <span className="mono">{argv[0]}</span> · {ending} · {lasting(durationMs)}
        {reply.truncated && ' · cut short'}
      </Text>
      {streams.map((stream) => (
        <pre key={stream.title} className="output" aria-label={stream.title} tabIndex={0} style={{ marginBottom: 10 }}>
          {stream.text}
        </pre>
      ))}
    </div>
  )
}

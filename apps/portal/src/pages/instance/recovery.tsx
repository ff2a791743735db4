/** What becomes of an instance that crashes or whose host starts anew, and the core dump of its memory. */
import { Button, Checkbox, TextInput, Tooltip } from '@mantine/core'
import { formatBytes } from '@typevisor/base'
import { useState } from 'react'
import { call } from '../../api/client.ts'
import { useSession } from '../../api/session.ts'
import { refusal, settingsRefusal, type Instance } from '../../api/verbs.ts'
import { CRASH_TEXT, CrashField } from '../../forms/crash-field.tsx'
import { OperationForm } from '../../forms/operation-form.tsx'
import { FormDialog } from '../../forms/small-form.tsx'
import { WORD_PROPS } from '../../forms/word-props.ts'
import { CopyButton } from '../../ui/copy.tsx'
import { Icon } from '../../ui/icons.tsx'
import { Ago } from '../../ui/now.tsx'
import { Panel } from '../../ui/page.tsx'
import { useVerbs } from '../../ui/verb-menu.tsx'
import { bodyOf, draftOf } from './recovery-draft.ts'

export function Recovery({ instance }: { readonly instance: Instance }) {
  const { account } = useSession()
  const begin = useVerbs()
  const [changing, setChanging] = useState(false)
  const { onCrash, autostart, autostartOrder } = instance.settings
  const mayNotChange = settingsRefusal(instance, account.role)
  const mayNotDump = refusal('dump', instance, account.role)
  return (
    <Panel title="Crashes and restarts" testId="recovery">
      <dl className="facts">
        <dt>When it crashes</dt>
        <dd>{CRASH_TEXT[onCrash]}</dd>
        <dt>With its host</dt>
        <dd>
          {autostart ? (
            <>
              Started again, <span className="num">order {autostartOrder}</span>
            </>
          ) : (
            'Not started again'
          )}
        </dd>
        <dt>Core dump</dt>
        <dd>
          <Dump instance={instance} />
        </dd>
      </dl>
      <div style={{ marginTop: 14, display: 'flex', flexWrap: 'wrap', gap: 8 }}>
        <Tooltip label={mayNotChange ?? ''} disabled={mayNotChange === null}>
          <Button
            variant="default"
            leftSection={<Icon name="gear" />}
            disabled={mayNotChange !== null}
            onClick={() => setChanging(true)}
            data-testid="change-recovery"
          >
            Change
          </Button>
        </Tooltip>
        <Tooltip label={mayNotDump ?? 'It stands still while its memory is written, and goes on as it was'}>
          <Button
            variant="default"
            leftSection={<Icon name="file" />}
            disabled={mayNotDump !== null}
            onClick={() => begin('dump', [instance])}
            data-testid="dump"
          >
            Dump its memory
          </Button>
        </Tooltip>
      </div>
      <FormDialog opened={changing} onClose={() => setChanging(false)} title={`Crashes and restarts of ${instance.name}`}>
        <ChangeRecovery instance={instance} onClose={() => setChanging(false)} />
      </FormDialog>
    </Panel>
  )
}

/** The newest: a file of its host. */
function Dump({ instance: { dump, host } }: { readonly instance: Instance }) {
  if (dump === null) return <span data-testid="core-dump">None</span>
  return (
    <div data-testid="core-dump">
      <span className="num">{formatBytes(dump.sizeBytes)}</span>{' '}
      <span className="dim">
        {dump.format}, on {host},
      </span>{' '}
      <Ago at={dump.takenAt} />
      <div>
        <span className="mono">{dump.path}</span> <CopyButton text={dump.path} what="the path" />
      </div>
    </div>
  )
}

function ChangeRecovery({ instance, onClose }: { readonly instance: Instance; readonly onClose: () => void }) {
  const [draft, setDraft] = useState(() => draftOf(instance))
  const change = (part: Partial<typeof draft>) => setDraft((now) => ({ ...now, ...part }))
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={['onCrash', 'autostart', 'autostartOrder']}
      send={async () => call('instance.set', { params: { instance: instance.id }, query: {}, body: bodyOf(draft, instance) })}
      action="Change it"
      testId="recovery-form"
    >
      {(errors) => (
        <>
          <CrashField value={draft.onCrash} error={errors.onCrash} onChange={(onCrash) => change({ onCrash })} />
          <Checkbox
            label="Start it again with its host"
            description="When the host was started anew, if it ran when that went down"
            checked={draft.autostart}
            onChange={(event) => change({ autostart: event.currentTarget.checked })}
            error={errors.autostart}
            data-testid="field-autostart"
          />
          <TextInput
            label="Order"
            description="Lower ones are started first, of equal ones by name; empty: as at its creation"
            inputMode="numeric"
            value={draft.order}
            onChange={(event) => change({ order: event.currentTarget.value })}
            error={errors.autostartOrder}
            data-testid="field-autostartOrder"
            {...WORD_PROPS}
          />
        </>
      )}
    </OperationForm>
  )
}

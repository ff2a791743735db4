/** Beside the screen: keys that go to the guest by the API, whether its screen is open or not, and a picture of what it shows. */
import { Button, Menu, Textarea, TextInput, Tooltip } from '@mantine/core'
import { chordsOfText, parseChord } from '@typevisor/model'
import { useMutation } from '@tanstack/react-query'
import { useEffect, useState, type RefObject } from 'react'
import { fromBase64 } from '../../api/base64.ts'
import { call } from '../../api/client.ts'
import { useSession } from '../../api/session.ts'
import { screenRefusal, type Instance } from '../../api/verbs.ts'
import { FormDialog, SmallForm } from '../../forms/small-form.tsx'
import { WORD_PROPS } from '../../forms/word-props.ts'
import { download } from '../../ui/download.ts'
import { Icon } from '../../ui/icons.tsx'
import { useComplaints } from '../../ui/notices.tsx'
import { momentName } from '../../ui/time.ts'
import { chordsOf, KEY_CHOICES } from './keys.ts'

interface ToolProps {
  readonly instance: Instance
  /** What fills the whole screen, when it does. */
  readonly frame: RefObject<HTMLElement | null>
}

/** A dialog is no part of what fills the screen. */
const leaveFullscreen = () => {
  if (document.fullscreenElement !== null) void document.exitFullscreen()
}

export function KeysMenu({ instance, frame }: ToolProps) {
  const { account } = useSession()
  const { complain } = useComplaints()
  const [opened, setOpened] = useState(false)
  const [typing, setTyping] = useState(false)
  const refusal = screenRefusal('instance.keys', instance, account.role)
  const pressing = useMutation({
    mutationFn: (keys: readonly string[]) =>
      call('instance.keys', { params: { instance: instance.id }, body: { keys: [...keys] } }),
    onError: (error) => complain(`Keys for ${instance.name} were refused`, error),
  })
  const whole = opened && frame.current !== null && document.fullscreenElement === frame.current ? frame.current : null
  return (
    <>
      <Menu width={220} opened={opened} onChange={setOpened} {...(whole !== null && { portalProps: { target: whole } })}>
        <Menu.Target>
          <Tooltip label={refusal ?? ''} disabled={refusal === null}>
            <Button
              size="compact-xs"
              variant="default"
              leftSection={<Icon name="keyboard" size={15} />}
              disabled={refusal !== null}
              data-testid="keys"
            >
              Keys
            </Button>
          </Tooltip>
        </Menu.Target>
        <Menu.Dropdown>
          {KEY_CHOICES.map(({ title, keys }) => (
            <Menu.Item key={title} onClick={() => pressing.mutate(keys)} data-testid={`keys-${keys.join('_')}`}>
              {title}
            </Menu.Item>
          ))}
          <Menu.Divider />
          <Menu.Item
            onClick={() => {
              leaveFullscreen()
              setTyping(true)
            }}
            data-testid="keys-other"
          >
            Other keys, or a text{'\u2026'}
          </Menu.Item>
        </Menu.Dropdown>
      </Menu>
      <FormDialog opened={typing} onClose={() => setTyping(false)} title={`Keys for ${instance.name}`}>
        <TypeKeys instance={instance} onClose={() => setTyping(false)} />
      </FormDialog>
    </>
  )
}

function TypeKeys({ instance, onClose }: { readonly instance: Instance; readonly onClose: () => void }) {
  const [keys, setKeys] = useState('')
  const [text, setText] = useState('')
  const chords = chordsOf(keys)
  return (
    <SmallForm
      fields={['keys', 'text']}
      send={async () => {
        // Here they are refused by the key that there is not.
        for (const chord of chords) parseChord(chord)
        chordsOfText(text)
        const body = { ...(chords.length > 0 && { keys: chords }), ...(text !== '' && { text }) }
        await call('instance.keys', { params: { instance: instance.id }, body })
      }}
      onSent={onClose}
      onCancel={onClose}
      action="Send them"
      disabled={chords.length === 0 && text === ''}
      testId="keys-form"
    >
      {(errors) => (
        <>
          <TextInput
            data-autofocus
            label="Keys"
            description="Held together with - between, one after the other with spaces: f1 to f12, ret, esc, tab, spc, up, kp_0"
            placeholder="ctrl-alt-f2 ret"
            value={keys}
            onChange={(event) => setKeys(event.currentTarget.value)}
            error={errors.keys}
            data-testid="field-keys"
            {...WORD_PROPS}
          />
          <Textarea
            label="Text"
            description="Typed after them, as on a US keyboard; a new line is Enter"
            rows={3}
            value={text}
            onChange={(event) => setText(event.currentTarget.value)}
            error={errors.text}
            data-testid="field-text"
            {...WORD_PROPS}
          />
        </>
      )}
    </SmallForm>
  )
}

export function PictureButton({ instance }: Omit<ToolProps, 'frame'>) {
  const { account } = useSession()
  const { complain } = useComplaints()
  const [opened, setOpened] = useState(false)
  const refusal = screenRefusal('instance.screenshot', instance, account.role)
  const taking = useMutation({
    mutationFn: async () => {
      const { contentBase64 } = await call('instance.screenshot', { params: { instance: instance.id } })
      return { content: fromBase64(contentBase64), name: `${instance.name}-${momentName(new Date())}.png` }
    },
    onSuccess: () => {
      leaveFullscreen()
      setOpened(true)
    },
    onError: (error) => complain(`${instance.name} gave no picture of its screen`, error),
  })
  return (
    <>
      <Tooltip label={refusal ?? 'A picture of what the guest shows now, as PNG'}>
        <Button
          size="compact-xs"
          variant="default"
          leftSection={<Icon name="snapshot" size={15} />}
          disabled={refusal !== null}
          loading={taking.isPending}
          onClick={() => taking.mutate()}
          data-testid="picture"
        >
          Picture
        </Button>
      </Tooltip>
      <FormDialog opened={opened} onClose={() => setOpened(false)} title={`Screen of ${instance.name}`} size="xl">
        {taking.data !== undefined && <Picture {...taking.data} onClose={() => setOpened(false)} />}
      </FormDialog>
    </>
  )
}

interface PictureProps {
  readonly content: Uint8Array<ArrayBuffer>
  readonly name: string
  readonly onClose: () => void
}

function Picture({ content, name, onClose }: PictureProps) {
  const [url, setUrl] = useState<string | null>(null)
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([content], { type: 'image/png' }))
    setUrl(made)
    return () => URL.revokeObjectURL(made)
  }, [content])
  return (
    <>
      <div className="picture">{url !== null && <img src={url} alt="What the guest showed" data-testid="picture-taken" />}</div>
      <div className="picture-foot">
        <span className="mono dim">{name}</span>
        <Button variant="default" onClick={onClose}>
          Close
        </Button>
        <Button
          data-autofocus
          leftSection={<Icon name="save" />}
          onClick={() => download(content, name, 'image/png')}
          data-testid="download"
        >
          Download
        </Button>
      </div>
    </>
  )
}

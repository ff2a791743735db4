import { Alert, Button, PasswordInput, Stack, Text, TextInput, Title } from '@mantine/core'
import { Fault } from '@typevisor/base'
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useRouter, useSearch } from '@tanstack/react-router'
import { useRef, useState, type FormEvent } from 'react'
import { messageOf } from '../api/message.ts'
import { signIn } from '../api/session.ts'
import { PATHS, safeReturn } from '../paths.ts'
import { Icon, Logo } from '../ui/icons.tsx'
import { useTitle } from '../ui/page.tsx'

export function SignIn() {
  useTitle('Sign in')
  const search = useSearch({ from: PATHS.signIn })
  const router = useRouter()
  const queryClient = useQueryClient()
  const [account, setAccount] = useState('admin')
  const [password, setPassword] = useState('')
  const passwordField = useRef<HTMLInputElement>(null)
  const entering = useMutation({
    mutationFn: () => signIn(queryClient, { account: account.trim(), password }),
    meta: { signsIn: true },
    onSuccess: () => router.history.push(safeReturn(search.return)),
    onError: () => {
      setPassword('')
      passwordField.current?.focus()
    },
  })
  const submit = (event: FormEvent) => {
    event.preventDefault()
    entering.mutate()
  }
  const wrong = entering.error instanceof Fault && entering.error.code === 'unauthenticated'
  return (
    <main className="sign-in">
      <form className="panel sign-in-card" onSubmit={submit} data-testid="sign-in">
        <Stack gap="md">
          <div>
            <Logo size={38} />
            <Title order={1} mt="sm">
              Sign in to Typevisor
            </Title>
          </div>
          {entering.error !== null && (
            <Alert color="red" variant="light" icon={<Icon name="alert" />} role="alert" data-testid="sign-in-error">
              {wrong ? 'Account or password is wrong.' : messageOf(entering.error)}
            </Alert>
          )}
          <TextInput
            label="Account"
            name="username"
            autoComplete="username"
            autoCapitalize="none"
            spellCheck={false}
            required
            withAsterisk={false}
            value={account}
            onChange={(event) => setAccount(event.currentTarget.value)}
          />
          <PasswordInput
            ref={passwordField}
            label="Password"
            name="password"
            autoComplete="current-password"
            required
            withAsterisk={false}
            data-autofocus
            autoFocus
            value={password}
            onChange={(event) => setPassword(event.currentTarget.value)}
            visibilityToggleButtonProps={{ 'aria-label': 'Show the password' }}
          />
          <Button type="submit" size="md" loading={entering.isPending}>
            Sign in
          </Button>
          <Text size="sm" c="dimmed">
            Until somebody has signed in, the first password of <span className="mono">admin</span> is printed where the platform
            is started, a new one at each start.
          </Text>
        </Stack>
      </form>
    </main>
  )
}

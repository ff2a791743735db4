import './ui/styles.ts'
import { MantineProvider } from '@mantine/core'
import { QueryClientProvider } from '@tanstack/react-query'
import { RouterProvider } from '@tanstack/react-router'
import { createRoot } from 'react-dom/client'
import { makeQueryClient } from './api/queries.ts'
import { sessionQuery } from './api/session.ts'
import { PATHS } from './paths.ts'
import { makeRouter } from './router.tsx'
import { cssVariables, theme } from './ui/theme.ts'

let leaving = false
const queryClient = makeQueryClient(() => {
  // Nobody was signed in to begin with: the route that asked sends to sign-in by itself.
  if (leaving || queryClient.getQueryData(sessionQuery.queryKey) === undefined) return
  leaving = true
  const here = router.state.location.href
  // Wherever one was, sign in and come back there. What is known is forgotten only when no page shows it any more.
  void router.navigate({ to: PATHS.signIn, search: { return: here } }).finally(() => {
    queryClient.clear()
    leaving = false
  })
})
const router = makeRouter(queryClient)

const root = document.getElementById('root')
if (root === null) throw new Error('index.html: no element with id root')
createRoot(root).render(
  <MantineProvider theme={theme} cssVariablesResolver={cssVariables} defaultColorScheme="auto">
    <QueryClientProvider client={queryClient}>
      <RouterProvider router={router} />
    </QueryClientProvider>
  </MantineProvider>,
)

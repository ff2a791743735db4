/**
 * The tree of pages. What needs a session hangs under `signedIn`, which asks for it before anything is loaded; each page is a chunk of
 * its own, loaded when it is first pointed at.
 */
import { Fault } from '@typevisor/base'
import type { QueryClient } from '@tanstack/react-query'
import { createRootRouteWithContext, createRoute, createRouter, redirect } from '@tanstack/react-router'
import { apiQuery } from './api/queries.ts'
import { sessionQuery } from './api/session.ts'
import { lazyPage } from './lazy-page.ts'
import { PageFailure, PageMissing, PagePending } from './pages/page-states.tsx'
import { parseInstanceSearch, toListQuery } from './pages/instance-search.ts'
import { SignedIn } from './pages/signed-in.tsx'
import { parseOperationSearch } from './pages/operation-search.ts'
import { PATHS } from './paths.ts'

declare module '@tanstack/react-router' {
  interface Register {
    router: ReturnType<typeof makeRouter>
  }
  interface HistoryState {
    /** Cursors of the pages before, as `table/pager.ts` reads them. */
    trail?: readonly (string | null)[]
  }
}

const root = createRootRouteWithContext<{ queryClient: QueryClient }>()({ notFoundComponent: PageMissing })

const signIn = createRoute({
  getParentRoute: () => root,
  path: PATHS.signIn,
  validateSearch: (raw: Record<string, unknown>): { return?: string } =>
    typeof raw['return'] === 'string' ? { return: raw['return'] } : {},
  component: lazyPage(() => import('./pages/sign-in.tsx'), 'SignIn'),
})

const signedIn = createRoute({
  getParentRoute: () => root,
  id: 'signed-in',
  beforeLoad: async ({ context, location }) => {
    try {
      await context.queryClient.ensureQueryData(sessionQuery)
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'unauthenticated') throw error
      throw redirect({ to: PATHS.signIn, search: location.href === '/' ? {} : { return: location.href } })
    }
  },
  component: SignedIn,
})

const home = createRoute({
  getParentRoute: () => signedIn,
  path: '/',
  beforeLoad: () => {
    throw redirect({ to: PATHS.instances })
  },
})

const instances = createRoute({
  getParentRoute: () => signedIn,
  path: PATHS.instances,
  validateSearch: parseInstanceSearch,
  loaderDeps: ({ search }) => ({ search }),
  loader: ({ context, deps }) =>
    void context.queryClient.prefetchQuery(apiQuery('instance.list', { query: toListQuery(deps.search) })),
  component: lazyPage(() => import('./pages/instances.tsx'), 'Instances'),
})

const instance = createRoute({
  getParentRoute: () => signedIn,
  path: PATHS.instance,
  loader: ({ context, params }) => void context.queryClient.prefetchQuery(apiQuery('instance.get', { params })),
  component: lazyPage(() => import('./pages/instance/instance.tsx'), 'InstancePage'),
})
const tabs = [
  createRoute({
    getParentRoute: () => instance,
    path: '/',
    component: lazyPage(() => import('./pages/instance/overview.tsx'), 'Overview'),
  }),
  createRoute({
    getParentRoute: () => instance,
    path: 'console',
    component: lazyPage(() => import('./pages/instance/console.tsx'), 'Console'),
  }),
  createRoute({
    getParentRoute: () => instance,
    path: 'screen',
    component: lazyPage(() => import('./pages/instance/screen.tsx'), 'Screen'),
  }),
  createRoute({
    getParentRoute: () => instance,
    path: 'guest',
    component: lazyPage(() => import('./pages/instance/guest.tsx'), 'Guest'),
  }),
  createRoute({
    getParentRoute: () => instance,
    path: 'devices',
    component: lazyPage(() => import('./pages/instance/devices.tsx'), 'Devices'),
  }),
  createRoute({
    getParentRoute: () => instance,
    path: 'snapshots',
    component: lazyPage(() => import('./pages/instance/snapshots.tsx'), 'Snapshots'),
  }),
  createRoute({
    getParentRoute: () => instance,
    path: 'events',
    component: lazyPage(() => import('./pages/instance/events.tsx'), 'Events'),
  }),
] as const

const images = createRoute({
  getParentRoute: () => signedIn,
  path: PATHS.images,
  component: lazyPage(() => import('./pages/images.tsx'), 'Images'),
})
const hosts = createRoute({
  getParentRoute: () => signedIn,
  path: PATHS.hosts,
  component: lazyPage(() => import('./pages/hosts.tsx'), 'Hosts'),
})
const host = createRoute({
  getParentRoute: () => signedIn,
  path: PATHS.host,
  loader: ({ context, params }) => void context.queryClient.prefetchQuery(apiQuery('host.get', { params })),
  component: lazyPage(() => import('./pages/host.tsx'), 'HostPage'),
})
const operations = createRoute({
  getParentRoute: () => signedIn,
  path: PATHS.operations,
  validateSearch: parseOperationSearch,
  component: lazyPage(() => import('./pages/operations.tsx'), 'Operations'),
})

const settings = createRoute({
  getParentRoute: () => signedIn,
  path: PATHS.settings,
  component: lazyPage(() => import('./pages/settings/settings.tsx'), 'Settings'),
})
const sections = [
  createRoute({
    getParentRoute: () => settings,
    path: '/',
    component: lazyPage(() => import('./pages/settings/account.tsx'), 'Account'),
  }),
  createRoute({
    getParentRoute: () => settings,
    path: 'tokens',
    component: lazyPage(() => import('./pages/settings/tokens.tsx'), 'Tokens'),
  }),
  createRoute({
    getParentRoute: () => settings,
    path: 'accounts',
    component: lazyPage(() => import('./pages/settings/accounts.tsx'), 'Accounts'),
  }),
  createRoute({
    getParentRoute: () => settings,
    path: 'audit',
    component: lazyPage(() => import('./pages/settings/audit.tsx'), 'Audit'),
  }),
] as const

/** Inside the shell, so that there is a way on from it. */
const missing = createRoute({ getParentRoute: () => signedIn, path: '$', component: PageMissing })

const routeTree = root.addChildren([
  signIn,
  signedIn.addChildren([
    home,
    instances,
    instance.addChildren(tabs),
    images,
    hosts,
    host,
    operations,
    settings.addChildren(sections),
    missing,
  ]),
])

export const makeRouter = (queryClient: QueryClient) =>
  createRouter({
    routeTree,
    context: { queryClient },
    defaultPreload: 'intent',
    defaultPreloadStaleTime: 0,
    defaultPendingComponent: PagePending,
    defaultPendingMs: 200,
    defaultErrorComponent: PageFailure,
    defaultNotFoundComponent: PageMissing,
    scrollRestoration: true,
  })

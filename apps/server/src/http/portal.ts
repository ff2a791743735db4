/** The portal's files. Names with a hash in them never change and are kept for a year; every other path of a page is the one page. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

/** True when there is a portal to serve. */
export async function addPortal(app: FastifyInstance, portalPath: string | null): Promise<boolean> {
  if (portalPath === null || !existsSync(join(portalPath, 'index.html'))) return false
  await app.register(fastifyStatic, {
    root: portalPath,
    preCompressed: true,
    dotfiles: 'ignore',
    cacheControl: false,
    setHeaders: (reply, path) => {
      const hashed = /[/\\]assets[/\\][^/\\]+-[A-Za-z0-9_-]{8,}\.[a-z0-9.]+$/.test(path)
      void reply.header('cache-control', hashed ? 'public, max-age=31536000, immutable' : 'no-cache')
    },
  })
  return true
}

/** A path of the portal rather than a missing file: what a browser opens as a page. */
export function isPage(request: FastifyRequest): boolean {
  const [path = ''] = request.url.split('?')
  const accepts = request.headers.accept ?? ''
  return (
    (request.method === 'GET' || request.method === 'HEAD') &&
    accepts.includes('text/html') &&
    !path.startsWith('/api/') &&
    !/\.[a-z0-9]{1,8}$/i.test(path)
  )
}

export const sendPage = (reply: FastifyReply): FastifyReply => reply.sendFile('index.html')

export const NO_PORTAL_PAGE = `<!doctype html><meta charset="utf-8"><title>Typevisor</title>
<p>The server runs, but the portal is not built here. <code>npm run build -w @typevisor/portal</code> builds it; the command line and the API work without it.</p>
`

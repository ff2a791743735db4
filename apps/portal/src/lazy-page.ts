/**
 * A page, or a part of one, as a chunk of its own, for times when the platform is away or has been replaced meanwhile:
 *
 *   fetch --fails--> does the platform answer? --no--> ask again, with the page's skeleton shown under the banner of the lost connection
 *                              |                         |
 *                              +--yes, at once           +--yes: load the address anew
 *                                  the chunk is of an older portal: the router loads the address anew, once
 *
 * Loaded anew rather than fetched again: browsers may remember that a module could not be had.
 */
import { lazyRouteComponent, type RouteComponent } from '@tanstack/react-router'
import { Fault } from '@typevisor/base'
import { lazy, type ComponentType, type LazyExoticComponent } from 'react'
import { call } from './api/client.ts'

const ASK_MS = 1_000

/** A refusal is an answer too. */
async function answers(): Promise<boolean> {
  try {
    await call('platform.health', {})
    return true
  } catch (error) {
    return error instanceof Fault && error.code !== 'unavailable'
  }
}

async function loaded<T>(importer: () => Promise<T>): Promise<T> {
  try {
    return await importer()
  } catch (error) {
    if (await answers()) throw error
    do await new Promise((resolve) => setTimeout(resolve, ASK_MS))
    while (!(await answers()))
    location.reload()
    return new Promise<never>(() => {})
  }
}

/** `name` is the component that the chunk exports. */
export function lazyPage<T extends object, K extends keyof T & string>(importer: () => Promise<T>, name: K): RouteComponent {
  // The router looks into the page's type, and the page's into the router's: named here, neither has to be worked out.
  return lazyRouteComponent(() => loaded(importer), name)
}

/** What is not there at the first look, such as a dialog: its chunk comes when it is first drawn. */
export const lazyPart = <P extends object>(importer: () => Promise<ComponentType<P>>): LazyExoticComponent<ComponentType<P>> =>
  lazy(async () => ({ default: await loaded(importer) }))

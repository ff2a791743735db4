/** Asks before something is lost. Where nobody can be asked, `--yes` has to say so. */
import { Fault } from '@typevisor/base'
import type { Client } from '@typevisor/api/client'
import type { Parsed } from './options.ts'
import type { Terminal } from './terminal.ts'

type Words = (target: string, forced: boolean, snapshotCount: number | null) => string

/** null: it is not known how many there are. */
const snapshotsText = (count: number | null): string =>
  count === null ? ' and snapshots' : count === 0 ? '' : count === 1 ? ' and its snapshot' : ` and its ${count} snapshots`

/** What is lost, by operation. */
const LOSES: Readonly<Record<string, Words>> = {
  'instance.destroy': (target, forced, snapshotCount) =>
    forced
      ? `${target} goes, whether its host answers or not. What the host still has of it is ended when the host comes back.`
      : `${target} is removed with its disks${snapshotsText(snapshotCount)}.`,
  'instance.poweroff': (target) => `The power of ${target} is cut: what its guest has not written to disk is lost.`,
  'instance.revert': (target) =>
    `Memory and disks of ${target.replace(' ', ' go back to snapshot ')}: what was written since is lost, and a save with it.`,
  'instance.detach': (target) => `The volume ${target.replace(/^(\S+) (.*)/, '$2 of $1')} is deleted.`,
  'instance.snapshot-delete': (target) =>
    `${target.replace(' ', ' can no longer go back to snapshot ')}; what was cloned from it stays.`,
  'operation.abandon': (target) => `What operation ${target} did so far stays as it is; nothing more is undone.`,
  'account.delete': (target) => `The account ${target} goes, with its sessions and tokens.`,
  'token.delete': (target) => `Whoever uses token ${target} is refused from then on.`,
  'host.delete': (target, forced) =>
    forced
      ? `Host ${target} goes, and its instances with it, as they are: for a machine that is gone for good.`
      : `Host ${target} goes, and its token ends.`,
}

const isId = (text: string): boolean => /^[0-9a-f]{8}-[0-9a-f-]{27}$/.test(text)

/** What is lost, and what has to be typed to go on: a name is typed again, an id is not. */
export function questionOf(
  name: string,
  parsed: Parsed,
  snapshotCount: number | null = null,
): { readonly loses: string; readonly answer: string } {
  const target = Object.values(parsed.params).join(' ')
  const forced = parsed.query['force'] === 'true' || parsed.query['force'] === true
  const loses =
    (Object.hasOwn(LOSES, name) ? LOSES[name] : undefined)?.(target, forced, snapshotCount) ??
    `${name.replace('.', ' ')} ${target}.`
  return { loses, answer: isId(target) || target === '' ? 'yes' : target }
}

/** null where the server is away, or does not know the instance: it will say so itself. */
async function snapshotCountOf({ params }: Parsed, client: () => Client): Promise<number | null> {
  try {
    return (await client().call('instance.get', { params: { instance: String(params['instance']) } })).snapshotCount
  } catch {
    return null
  }
}

/** @throws Fault `invalid` where nobody can be asked, `aborted` when the answer is another. */
export async function ask(what: string, loses: string, answer: string, terminal: Terminal): Promise<void> {
  if (!terminal.interactive) throw new Fault('invalid', `${what}: ${loses} Say --yes`)
  const { createInterface } = await import('node:readline/promises')
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  const given = await lines.question(`${loses}\nType ${answer} to go on: `)
  lines.close()
  if (given.trim() !== answer) throw new Fault('aborted', `${what}: not confirmed, nothing was done`)
}

/** Most of them always lose something; a device that is detached is kept with its volume. */
const losesNothing = (name: string, { query }: Parsed): boolean =>
  name === 'instance.detach' && query['delete'] !== 'true' && query['delete'] !== true

export async function confirm(name: string, parsed: Parsed, terminal: Terminal, client: () => Client): Promise<void> {
  if (losesNothing(name, parsed)) return
  const { loses, answer } = questionOf(name, parsed, name === 'instance.destroy' ? await snapshotCountOf(parsed, client) : null)
  await ask(`${name.replace('.', ' ')} ${Object.values(parsed.params).join(' ')}`, loses, answer, terminal)
}

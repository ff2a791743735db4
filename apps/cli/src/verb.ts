/** Runs one operation of the API: words in, request, reply out; long operations are waited for with progress. */
import { Fault } from '@typevisor/base'
import type { OperationName } from '@typevisor/api'
import { createClient, type CallOperation, type Client } from '@typevisor/api/client'
import { VERB_DATA, type VerbData } from '@typevisor/api/verbs'
import type { Terminal } from './terminal.ts'
import { connection } from './connect.ts'
import { EXIT } from './exit-codes.ts'
import { parseWords, type Parsed } from './options.ts'
import { assertCanWait, takeOwn, type Own } from './own-flags.ts'
import { secretFieldOf } from './secret-fields.ts'
import { fetchFor } from './node-fetch.ts'

export const verbsOf = (noun: string): string[] =>
  Object.entries(VERB_DATA)
    .filter(([name, verb]) => name.startsWith(`${noun}.`) && verb.cli !== null)
    .map(([name]) => name.slice(noun.length + 1))

export function clientOf(terminal: Terminal): Client {
  const { url, token, certificate } = connection(terminal.env)
  return createClient({ baseUrl: url, token, fetch: fetchFor(certificate) })
}

export async function runVerb(
  noun: string,
  verbWord: string | undefined,
  words: readonly string[],
  terminal: Terminal,
  json: boolean,
): Promise<number> {
  if (verbsOf(noun).length === 0) throw (await import('./unknown.ts')).unknownNoun(noun)
  const name = `${noun}.${verbWord}` as OperationName
  const verb: VerbData | undefined = Object.hasOwn(VERB_DATA, name) ? VERB_DATA[name] : undefined
  if (!verb?.cli) throw (await import('./unknown.ts')).unknownVerb(noun, verbWord)
  const own = takeOwn(verb, words)
  const parsed = parseWords(`${noun} ${verbWord}`, verb, own.words)
  assertCanWait(name, own, parsed)
  if (verb.cli.confirms && !own.yes)
    await (await import('./confirm.ts')).confirm(name, parsed, terminal, () => clientOf(terminal))
  await askForSecret(`${noun} ${verbWord}`, verb, parsed, terminal)
  try {
    return await send({ client: clientOf(terminal), name, verb, own, parsed, terminal, json })
  } catch (error) {
    if (!(error instanceof Fault) || error.details.length === 0) throw error
    throw (await import('./explain.ts')).explained(error, `${noun} ${verbWord}`, verb, parsed)
  }
}

/** Before anything is asked of the server. What stood among the words was seen by others: it is taken, with a warning. */
async function askForSecret(name: string, verb: VerbData, parsed: Parsed, terminal: Terminal): Promise<void> {
  const field = secretFieldOf(verb)
  if (!field) return
  const given = parsed.sources.get(`body.${field.name}`)
  if (!given) parsed.body[field.name] = await (await import('./secret.ts')).askSecret(name)
  else if (!/^(?:-$|@(?!@))/.test(given.raw)) {
    terminal.say(
      'typevisor: a password among the words of a command is seen by other users (ps) and kept by the shell; leave it out to be asked, or --password - reads it from standard input',
    )
  }
}

interface Sending {
  readonly client: Client
  readonly name: OperationName
  readonly verb: VerbData
  readonly own: Own
  readonly parsed: Parsed
  readonly terminal: Terminal
  readonly json: boolean
}

async function send({ client, name, verb, own, parsed, terminal, json }: Sending): Promise<number> {
  if (verb.transport === 'stream')
    return (await import('./commands/console.ts')).attach(
      client,
      String(parsed.params['instance']),
      Number(parsed.query['from'] ?? 0),
      terminal,
    )
  if (verb.transport === 'events') return followEvents(client, parsed, terminal, json)
  if (name === 'instance.exec') return (await import('./commands/exec.ts')).exec(client, parsed, terminal, json)
  if (name === 'instance.screenshot' || name === 'instance.file-get')
    return (await import('./commands/content.ts')).content(client, name, parsed, terminal, json)
  if (name === 'instance.log') return (await import('./commands/log.ts')).log(client, parsed, terminal, json)

  const input = { params: parsed.params, query: parsed.query, ...(verb.body.length > 0 ? { body: parsed.body } : {}) }
  if (!verb.saga) return show(name, await client.call(name as CallOperation, input as never), terminal, json)
  const { follow, FIRST_WAIT_SECONDS } = await import('./follow.ts')
  if (!own.noWait) input.query = { wait: FIRST_WAIT_SECONDS, ...parsed.query }
  const begin = () => client.call(name as 'instance.create', input as never) // every saga is answered alike
  return follow(begin, { client, name, target: Object.values(parsed.params).join(' '), own, terminal, json })
}

async function show(name: OperationName, reply: unknown, terminal: Terminal, json: boolean): Promise<number> {
  if (json) terminal.out(JSON.stringify(reply, null, 2))
  else {
    const { renderReply } = await import('./render.ts')
    terminal.out(renderReply(name, reply, Date.now(), terminal.width))
  }
  return EXIT.ok
}

async function followEvents(client: Client, parsed: Parsed, terminal: Terminal, json: boolean): Promise<number> {
  const { renderReply } = await import('./render.ts')
  const after = parsed.query['after'] as string | undefined
  for await (const event of client.events({ after })) {
    terminal.out(
      json
        ? JSON.stringify(event)
        : renderReply('event.list', { items: [event] }, Date.now(), terminal.width)
            .split('\n')
            .slice(1)
            .join('\n'),
    )
  }
  return EXIT.ok
}

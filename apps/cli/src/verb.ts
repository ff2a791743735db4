/** Runs one operation of the API: words in, request, reply out; long operations are waited for with progress. */
import { Fault, toFault } from '@typevisor/base'
import type { OperationName, Reply } from '@typevisor/api'
import { createClient, type CallOperation, type Client } from '@typevisor/api/client'
import { VERB_DATA, type VerbData } from '@typevisor/api/verbs'
import type { Terminal } from './terminal.ts'
import { connection } from './connect.ts'
import { EXIT, exitCodeOf } from './exit-codes.ts'
import { parseWords, type Parsed } from './options.ts'
import { fetchFor } from './node-fetch.ts'

/** Flags of the command line itself, beside those of the table. */
interface Own {
  yes: boolean
  noWait: boolean
  waitFor: string | null
  words: string[]
}

const NOUNS = new Set(Object.keys(VERB_DATA).map((name) => name.split('.')[0] as string))
export const verbsOf = (noun: string): string[] =>
  Object.entries(VERB_DATA)
    .filter(([name, verb]) => name.startsWith(`${noun}.`) && verb.cli !== null)
    .map(([name]) => name.slice(noun.length + 1))

function takeOwn(words: readonly string[]): Own {
  const own: Own = { yes: false, noWait: false, waitFor: null, words: [] }
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] as string
    if (word === '--') {
      own.words.push(...words.slice(index))
      break
    }
    if (word === '--yes') own.yes = true
    else if (word === '--no-wait') own.noWait = true
    else if (word === '--wait' || word.startsWith('--wait=')) {
      own.waitFor = word === '--wait' ? (words[(index += 1)] ?? '') : word.slice('--wait='.length)
      if (!['console', 'agent', 'done'].includes(own.waitFor))
        throw new Fault('invalid', `--wait: got ${JSON.stringify(own.waitFor)}, want console, agent or done`)
    } else own.words.push(word)
  }
  return own
}

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
  if (!NOUNS.has(noun)) throw new Fault('invalid', `unknown command ${JSON.stringify(noun)}; \`typevisor help\` lists them`)
  const name = `${noun}.${verbWord}` as OperationName
  const verb: VerbData | undefined = Object.hasOwn(VERB_DATA, name) ? VERB_DATA[name] : undefined
  if (!verb?.cli) {
    const got = verbWord === undefined ? 'no verb' : `the verb ${JSON.stringify(verbWord)}`
    throw new Fault('invalid', `${noun}: got ${got}, want ${verbsOf(noun).join(', ')}`)
  }
  const own = takeOwn(words)
  const parsed = parseWords(`${noun} ${verbWord}`, verb, own.words)
  if (verb.cli.confirms && !own.yes) await confirm(noun, String(verbWord), parsed, terminal)
  const client = clientOf(terminal)
  if (verb.transport === 'stream')
    return (await import('./commands/console.ts')).attach(
      client,
      String(parsed.params['instance']),
      Number(parsed.query['from'] ?? 0),
      terminal,
    )
  if (verb.transport === 'events') return followEvents(client, parsed, terminal, json)
  if (name === 'instance.exec') return (await import('./commands/exec.ts')).exec(client, parsed, terminal, json)
  if (name === 'instance.log') return (await import('./commands/log.ts')).log(client, parsed, terminal, json)

  const input = { params: parsed.params, query: parsed.query, ...(verb.body.length > 0 ? { body: parsed.body } : {}) }
  if (verb.saga && !own.noWait) input.query = { wait: 20, ...parsed.query }
  const reply: unknown = await client.call(name as CallOperation, input as never)
  if (!verb.saga) return show(name, reply, terminal, json)
  return finishOperation(client, name, reply as Reply<'instance.create'>, own, terminal, json)
}

async function show(name: OperationName, reply: unknown, terminal: Terminal, json: boolean): Promise<number> {
  if (json) terminal.out(JSON.stringify(reply, null, 2))
  else {
    const { renderReply } = await import('./render.ts')
    terminal.out(renderReply(name, reply, Date.now(), terminal.width))
  }
  return EXIT.ok
}

async function finishOperation(
  client: Client,
  name: OperationName,
  accepted: Reply<'instance.create'>,
  own: Own,
  terminal: Terminal,
  json: boolean,
): Promise<number> {
  let { operation } = accepted
  const title = accepted.instance ? `${name.replace('instance.', '')} ${accepted.instance.name}` : name
  const { Progress } = await import('./progress.ts')
  const progress = new Progress(title, terminal)
  while (!own.noWait && (operation.state === 'running' || operation.state === 'undoing')) {
    progress.show(operation.step ?? 'waiting', operation.progress)
    operation = await client.call('operation.get', { params: { operation: operation.id }, query: { wait: 1 } })
  }
  progress.clear()
  if (operation.fault && operation.state !== 'running') {
    const fault = operation.fault
    if (json) terminal.say(JSON.stringify({ error: fault, operation }))
    else terminal.say(`typevisor: ${title}: ${fault.message}`)
    return exitCodeOf(fault.code as never)
  }
  const instance = accepted.instance
    ? await client.call('instance.get', { params: { instance: accepted.instance.id } }).catch((error: unknown) => {
        if (toFault(error).code === 'not_found') return null
        throw error
      })
    : null
  if (instance && own.waitFor !== null && own.waitFor !== 'done') {
    const { waitForGuest } = await import('./commands/wait.ts')
    await waitForGuest(client, instance.id, own.waitFor as 'console' | 'agent', terminal)
  }
  if (json) terminal.out(JSON.stringify({ operation, instance }, null, 2))
  else
    terminal.out(
      instance
        ? `${instance.name}: ${instance.state.kind}`
        : accepted.instance
          ? `${accepted.instance.name}: ${own.noWait ? operation.state : 'gone'}`
          : `${name}: ${operation.state}`,
    )
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

async function confirm(noun: string, verb: string, parsed: Parsed, terminal: Terminal): Promise<void> {
  const target = Object.values(parsed.params).join(' ')
  if (!terminal.interactive) throw new Fault('invalid', `${noun} ${verb} ${target}: this destroys; say --yes`)
  const { createInterface } = await import('node:readline/promises')
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  const answer = await lines.question(`${verb} ${noun} ${target}? Type ${target} to go on: `)
  lines.close()
  if (answer.trim() !== target) throw new Fault('aborted', `${noun} ${verb} ${target}: not confirmed`)
}

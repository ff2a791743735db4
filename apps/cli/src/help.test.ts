import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { VERB_DATA } from '@typevisor/api/verbs'
import { COMMANDS } from './commands.ts'
import { help } from './help.ts'

const refused = (words: string[], message: RegExp) =>
  assert.rejects(help(words), (error) => error instanceof Fault && error.code === 'invalid' && message.test(error.message))

test('defaults are said as people write them', async () => {
  const create = await help(['instance', 'create'])
  assert.match(create, /--memory SIZE +memory \(default 256 MiB\)/)
  assert.match(create, /--root-disk SIZE +size of the root disk \(default 1 GiB\)/)
  assert.match(create, /--\[no-\]start +boot it at once \(default yes\)/)
  assert.doesNotMatch(create, /default \[\]|default \{\}/)
  assert.match(await help(['instance', 'exec']), /--timeout TIME +time limit \(default 60 s\)/)
})

test('no help shows a raw size or time, whatever the operation', async () => {
  for (const [name, verb] of Object.entries(VERB_DATA)) {
    if (verb.cli) assert.doesNotMatch(await help(name.split('.')), /default \d{5,}/, name)
  }
})

test('every command shows its flags', async () => {
  for (const name of Object.keys(COMMANDS)) assert.match(await help([name]), /usage: typevisor/)
  assert.match(await help(['start']), /--port PORT +port of the portal/)
})

test('a verb of a command shows its usage and its flags alone', async () => {
  const create = await help(['volume', 'create'])
  assert.match(create, /^usage: typevisor volume create NAME /)
  assert.match(create, /--size SIZE +size/)
  assert.match(create, /--json +the reply as JSON/)
  assert.doesNotMatch(create, /volume clone|--iops|--from/)
  assert.match(await help(['snapshot', 'export']), /--from VOLUME@SNAPSHOT/)
  assert.match(await help(['volume']), /usage: [^]*volume create[^]*volume usage[^]*--iops[^]*--json/)
  const { volume, snapshot } = COMMANDS
  for (const command of [volume, snapshot]) {
    const { summary, verbs = [] } = (await command?.load()) ?? {}
    assert.equal(summary, command?.summary)
    for (const verb of verbs) assert.match(summary ?? '', new RegExp(`\\b${verb}\\b`))
  }
  await refused(['volume', 'creat'], /volume: unknown verb "creat" \(did you mean create\?\)/)
})

test('a wait for the guest is offered only where a guest runs afterwards', async () => {
  assert.match(await help(['instance', 'start']), /--wait console/)
  assert.doesNotMatch(await help(['instance', 'save']), /--wait console/)
})

test('what there is not is refused, with what was meant', async () => {
  await refused(['nope'], /unknown command "nope"; `typevisor help`/)
  await refused(['instnace'], /did you mean instance\?/)
  await refused(['instance', 'creat'], /instance: unknown verb "creat" \(did you mean create\?\)/)
  await refused(['create'], /did you mean account create or token create or instance create\?/)
})

/** Keys of encrypted volumes. What goes to whoever has the store open is the content of a key file, never its path. */
import { Fault } from '@typevisor/base'
import type { CommandCaller } from '@typevisor/storage'
import type { FlagTable } from '../flags.ts'
import type { Terminal } from '../terminal.ts'
import { readKeyFile } from './key-file.ts'
import type { VolumeVerb } from './volume-verb.ts'

export const KEY_FLAGS = {
  'key-file': { text: 'encrypted with what is in this file: 32 random bytes or more, or a passphrase', value: 'FILE' },
  'new-key-file': { text: 'the key file from now on (rekey)', value: 'FILE' },
} as const satisfies FlagTable

type Flags = Readonly<Record<string, string | undefined>>

/** In base64. @throws Fault `invalid` when the flag was not given. */
export async function secretOf(flags: Flags, flag: keyof typeof KEY_FLAGS): Promise<string> {
  const path = flags[flag]
  if (path === undefined) throw new Fault('invalid', `--${flag}: got nothing, want a file`)
  return Buffer.from(await readKeyFile(path)).toString('base64')
}

/** What is locked after all has been tried with the key file, where one is given. One that opens nothing that was locked is told. */
export async function stillLocked(call: CommandCaller, flags: Flags, terminal: Terminal): Promise<string[]> {
  const locked = async (): Promise<string[]> =>
    (await call('list', {})).flatMap(({ name, encryption }) => (encryption === 'locked' ? [name] : []))
  if (flags['key-file'] === undefined) return locked()
  const secret = await secretOf(flags, 'key-file')
  const before = await locked()
  for (const name of before)
    await call('unlock', { name, secret }).catch((error: unknown) => {
      if (!(error instanceof Fault) || error.code !== 'unauthenticated') throw error
    })
  const after = await locked()
  if (after.length === before.length) terminal.say(nothingOpened(flags['key-file']))
  return after
}

export const nothingOpened = (path: string): string => `${path}: no locked volume has its key from this file`

export const KEY_VERBS: Readonly<Record<string, VolumeVerb>> = {
  unlock: {
    usage: 'typevisor volume unlock NAME --key-file FILE --dir DIR (while it is served)',
    words: [1, 1],
    flags: ['key-file'],
    wantsServer: 'nbd serve --key-file FILE unlocks what it serves',
    run: async (call, [name = ''], flags, terminal, json) => {
      const { unlocked } = await call('unlock', { name, secret: await secretOf(flags, 'key-file') })
      terminal.out(
        json
          ? JSON.stringify({ unlocked })
          : unlocked.length > 0
            ? `${name} is unlocked for as long as it is served`
            : `${name} is unlocked already`,
      )
    },
  },
  rekey: {
    usage: 'typevisor volume rekey NAME --key-file FILE --new-key-file FILE --dir DIR',
    words: [1, 1],
    flags: ['key-file', 'new-key-file'],
    run: async (call, [name = ''], flags, terminal, json) => {
      const [secret, nextSecret] = [await secretOf(flags, 'key-file'), await secretOf(flags, 'new-key-file')]
      const volume = await call('rekey', { name, secret, nextSecret })
      terminal.out(json ? JSON.stringify(volume) : `${name} and its snapshots have the new key file; clones keep theirs`)
    },
  },
}

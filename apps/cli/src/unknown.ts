/** Words that there are not, told with those that were meant. */
import { Fault } from '@typevisor/base'
import { VERB_DATA } from '@typevisor/api/verbs'
import { COMMANDS } from './commands.ts'
import { didYouMean } from './suggest.ts'
import { verbsOf } from './verb.ts'

const nouns = (): string[] => [...new Set(Object.keys(VERB_DATA).map((name) => name.split('.')[0] as string))]

export function unknownNoun(noun: string): Fault {
  const known = [...nouns().filter((each) => verbsOf(each).length > 0), ...Object.keys(COMMANDS), 'help', 'version']
  // `typevisor create web-1`: a verb without its noun.
  const owners = nouns().filter((each) => verbsOf(each).includes(noun))
  const meant =
    owners.length > 0 ? ` (did you mean ${owners.map((owner) => `${owner} ${noun}`).join(' or ')}?)` : didYouMean(noun, known)
  return new Fault('invalid', `unknown command ${JSON.stringify(noun)}${meant}; \`typevisor help\` lists them`)
}

export function unknownVerb(noun: string, verb: string | undefined, known: readonly string[] = verbsOf(noun)): Fault {
  if (verb === undefined) return new Fault('invalid', `${noun}: want a verb: ${known.join(', ')}`)
  return new Fault(
    'invalid',
    `${noun}: unknown verb ${JSON.stringify(verb)}${didYouMean(verb, known)}; known: ${known.join(', ')}`,
  )
}

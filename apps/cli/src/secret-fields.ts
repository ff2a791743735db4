import type { VerbData, VerbField } from '@typevisor/api/verbs'

/** What is never shown, nor wanted among the words of a command. */
export const isSecret = (field: VerbField): boolean => field.name === 'password'
/** The field that is asked for when it was not given. */
export const secretFieldOf = (verb: VerbData): VerbField | undefined =>
  verb.body.find((field) => field.required && isSecret(field))

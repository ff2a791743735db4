/** Of a field that takes names and numbers, which nobody's keyboard is to mend. */
export const WORD_PROPS = { spellCheck: false, autoCapitalize: 'none', autoComplete: 'off' } as const

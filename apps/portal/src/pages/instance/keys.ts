/** Keys that a browser keeps for itself, or a person has not at hand, as the API names them. */

export interface KeyChoice {
  readonly title: string
  /** Chords, one after the other. */
  readonly keys: readonly string[]
}

export const KEY_CHOICES: readonly KeyChoice[] = [
  { title: 'Ctrl+Alt+Del', keys: ['ctrl-alt-delete'] },
  { title: 'Ctrl+Alt+F1', keys: ['ctrl-alt-f1'] },
  { title: 'Ctrl+Alt+F2', keys: ['ctrl-alt-f2'] },
  { title: 'Ctrl+Alt+F7', keys: ['ctrl-alt-f7'] },
  { title: 'Alt+Tab', keys: ['alt-tab'] },
  { title: 'Alt+F4', keys: ['alt-f4'] },
  { title: 'Super', keys: ['meta_l'] },
  { title: 'Print', keys: ['print'] },
  { title: 'Esc', keys: ['esc'] },
]

/** `ctrl-alt-f2  ret` -> both. */
export const chordsOf = (text: string): string[] => text.split(/\s+/).filter((chord) => chord !== '')

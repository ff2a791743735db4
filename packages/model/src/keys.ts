/** Keys of a guest's keyboard, by the names that QEMU and libvirt give them (qapi/ui.json, QKeyCode), and how a text is typed with them. */
import { Fault, fieldFault } from '@typevisor/base'

const LETTERS = 'abcdefghijklmnopqrstuvwxyz'
const DIGITS = '0123456789'
const NAMED = [
  ...[
    'shift',
    'shift_r',
    'alt',
    'alt_r',
    'ctrl',
    'ctrl_r',
    'meta_l',
    'meta_r',
    'menu',
    'compose',
    'caps_lock',
    'num_lock',
    'scroll_lock',
  ],
  ...['esc', 'tab', 'ret', 'backspace', 'spc', 'insert', 'delete', 'home', 'end', 'pgup', 'pgdn', 'up', 'down', 'left', 'right'],
  ...[
    'minus',
    'equal',
    'bracket_left',
    'bracket_right',
    'semicolon',
    'apostrophe',
    'grave_accent',
    'backslash',
    'comma',
    'dot',
    'slash',
  ],
  ...[
    'less',
    'print',
    'sysrq',
    'pause',
    'power',
    'sleep',
    'wake',
    'kp_enter',
    'kp_add',
    'kp_subtract',
    'kp_multiply',
    'kp_divide',
    'kp_decimal',
  ],
] as const

/** All that a chord may be made of. */
export const KEY_NAMES: ReadonlySet<string> = new Set([
  ...LETTERS,
  ...DIGITS,
  ...NAMED,
  ...Array.from({ length: 12 }, (_, index) => `f${index + 1}`),
  ...Array.from({ length: 10 }, (_, index) => `kp_${index}`),
])

export const CHORD_KEY_COUNT_MAX = 6
export const CHORD_COUNT_MAX = 1024

/** Keys that are held together. */
export type Chord = readonly string[]

/** `ctrl-alt-delete`. @throws Fault `invalid` that names the key. */
export function parseChord(text: string, path = 'keys'): Chord {
  const keys = text.split('-')
  const wrong = (want: string, got: string): Fault =>
    new Fault('invalid', `${path}: got ${JSON.stringify(got.slice(0, 60))}, want ${want}`, {
      details: [{ path, want, got: got.slice(0, 60) }],
    })
  if (keys.length > CHORD_KEY_COUNT_MAX) throw wrong(`at most ${CHORD_KEY_COUNT_MAX} keys together`, text)
  for (const key of keys)
    if (!KEY_NAMES.has(key)) throw wrong('names of keys with - between, such as ctrl-alt-delete, f2, ret', key)
  if (new Set(keys).size < keys.length) throw wrong('each key once', text)
  return keys
}

const PLAIN: Readonly<Record<string, string>> = {
  ' ': 'spc',
  '\n': 'ret',
  '\r': 'ret',
  '\t': 'tab',
  '-': 'minus',
  '=': 'equal',
  '[': 'bracket_left',
  ']': 'bracket_right',
  ';': 'semicolon',
  "'": 'apostrophe',
  '`': 'grave_accent',
  '\\': 'backslash',
  ',': 'comma',
  '.': 'dot',
  '/': 'slash',
}
const SHIFTED: Readonly<Record<string, string>> = {
  ...Object.fromEntries([...')!@#$%^&*('].map((character, digit) => [character, String(digit)])),
  _: 'minus',
  '+': 'equal',
  '{': 'bracket_left',
  '}': 'bracket_right',
  ':': 'semicolon',
  '"': 'apostrophe',
  '~': 'grave_accent',
  '|': 'backslash',
  '<': 'comma',
  '>': 'dot',
  '?': 'slash',
}

/** As somebody at a keyboard of the United States types it. @throws Fault `invalid` for a character that it has no key for. */
export function chordsOfText(text: string, path = 'text'): Chord[] {
  return [...text].map((character) => {
    const lower = character.toLowerCase()
    if (LETTERS.includes(lower) && lower.length === 1) return lower === character ? [lower] : ['shift', lower]
    if (DIGITS.includes(character)) return [character]
    const [plain, shifted] = [PLAIN[character], SHIFTED[character]]
    if (plain !== undefined) return [plain]
    if (shifted !== undefined) return ['shift', shifted]
    throw fieldFault({ path, want: 'characters of a US keyboard', got: JSON.stringify(character) })
  })
}

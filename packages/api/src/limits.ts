export const MIB = 1024 * 1024
export const GIB = 1024 * MIB
export const TIB = 1024 * GIB
export const LABEL_WANT_TEXT = '1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit'

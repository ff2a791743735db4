/** What JSON can hold: the only thing that is stored or sent. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json | undefined }

declare const brand: unique symbol

/** A `T` that only its constructor can make: `Bytes` is not `Millis`, and neither is a plain number. */
export type Brand<T, Name extends string> = T & { readonly [brand]: Name }

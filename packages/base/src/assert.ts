/** A bug was found: the operation that meets it ends. Never used for input from guests, networks or files. */
export class AssertionFault extends Error {
  override name = 'AssertionFault'
}

export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionFault(message)
}

/** Ends an exhaustive `switch`: a missing case fails to compile, and a hostile value at run time is named. */
export function unreachable(value: never): never {
  throw new AssertionFault(`unreachable case: ${JSON.stringify(value)}`)
}

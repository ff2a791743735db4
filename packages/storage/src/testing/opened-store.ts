import type { TestContext } from 'node:test'
import type { Store } from '../store/store.ts'

/** A store that is closed at the end of its test, however that ends: an open one keeps the process alive. */
export async function openedStore(t: TestContext, made: Promise<Store>): Promise<Store> {
  const store = await made
  let closing: Promise<void> | null = null
  const close = store.close.bind(store)
  store.close = () => (closing ??= close())
  t.after(() => store.close())
  return store
}

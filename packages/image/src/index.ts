export { createImageStore, type ImageStoreOptions } from './node-image-store.ts'
export type { Image, ImageStore } from './ports.ts'

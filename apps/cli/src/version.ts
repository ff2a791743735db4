import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const path = join(import.meta.dirname, '../../../package.json')
export const VERSION: string = (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version

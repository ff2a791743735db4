/** `typevisor support-bundle FILE`: what somebody who is to help wants to see, and no secret. */
import { writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import { Fault, formatBytes } from '@typevisor/base'
import { dataDirOf } from '../connect.ts'
import { fileFault } from '../file-fault.ts'
import { collect } from '../support/collect.ts'
import { tar } from '../support/tar.ts'
import type { Command } from '../terminal.ts'
import { findingsOf } from './doctor.ts'

const USAGE = 'typevisor support-bundle FILE.tar.gz'

export const supportBundle: Command = {
  summary: 'Write what helps to find a fault into a file: findings, versions, logs, counts; no secrets',
  usage: USAGE,
  flags: {},
  async run(words, terminal) {
    const [path, ...rest] = words
    if (path === undefined || path.startsWith('-') || rest.length > 0)
      throw new Fault('invalid', `support-bundle: got ${words.join(' ') || 'nothing'}, want the file to write: ${USAGE}`)
    const entries = await collect(terminal, dataDirOf(terminal.env), await findingsOf(terminal))
    const packed = await promisify(gzip)(tar(entries, Math.floor(Date.now() / 1000)))
    // Its own reader's alone, until he gives it away; what is there is not written over.
    await writeFile(path, packed, { mode: 0o600, flag: 'wx' }).catch((error: unknown) => {
      throw fileFault(`write ${path}`, error)
    })
    for (const { path: name, content } of entries) terminal.out(`${formatBytes(content.length).padStart(10)}  ${name}`)
    terminal.out(
      `${path}: ${formatBytes(packed.length)}; look through it before you give it away: names of instances and hosts are in it`,
    )
    return 0
  },
}

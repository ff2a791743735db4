import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { writeCpio } from './cpio.ts'
import { TreeBuilder } from './tree.ts'

test('a tree sorts itself, makes parents, and refuses paths that leave it', () => {
  const tree = new TreeBuilder().file('b/c/d', 'x').link('a', 'b').build()
  assert.deepEqual([...tree.keys()], ['a', 'b', 'b/c', 'b/c/d'])
  for (const path of ['', '/x', '../x', 'a/../x', 'a//b', './x', 'a/.', 'a\0b', 'a\nb']) {
    assert.throws(() => new TreeBuilder().file(path, ''), Fault, JSON.stringify(path))
  }
  assert.throws(() => new TreeBuilder().file('a', '').file('a/b', ''), /a is a file, want a folder/)
})

test('an archive is newc: magic, sizes, names, padding, trailer', () => {
  const archive = new TextDecoder('latin1').decode(
    writeCpio(new TreeBuilder().file('init', 'hello', 0o755).link('l', 'init').build(), 7),
  )
  assert.equal(archive.length % 512, 0)
  assert.equal(archive.slice(0, 6), '070701')
  assert.equal(parseInt(archive.slice(14, 22), 16), 0o100755)
  assert.equal(parseInt(archive.slice(46, 54), 16), 7)
  assert.equal(parseInt(archive.slice(54, 62), 16), 5)
  assert.equal(archive.slice(110, 115), 'init\0')
  assert.equal(archive.slice(116, 124), 'hello\0\0\0')
  assert.equal(archive.slice(124, 130), '070701')
  assert.ok(archive.includes('TRAILER!!!\0'))
})

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { mib } from '@typevisor/base'
import type { DomainName, DomainSettings, DomainSpec, VolumeId } from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import * as fc from 'fast-check'
import { commandLine, quoteOption, type CommandLineInput } from './command-line.ts'
import { planHardware } from './hardware.ts'
import { domainPaths } from './layout.ts'
import { testDomain } from './testing.ts'

const ID = '0192f000-0000-7000-8000-0123456789ab'
const domain = testDomain({
  id: ID,
  name: 'web-1',
  memoryMib: 256,
  forwards: [{ protocol: 'tcp', hostPort: 0, guestPort: 22 }],
  volumes: { root: { kind: 'file', path: '/data/root.qcow2', format: 'qcow2' } },
})
const paths = domainPaths({ runDir: '/run/tv', dataDir: '/var/tv' }, domain.id)

function input(over: Partial<CommandLineInput> = {}): CommandLineInput {
  return {
    domain,
    paths,
    accelerator: 'tcg',
    disks: new Map([
      [
        'root',
        {
          kind: 'chain',
          layers: [
            { filename: '/data/root.qcow2', format: 'qcow2' },
            { filename: '/images/base.qcow2', format: 'qcow2' },
          ],
        },
      ],
    ]),
    boot: { kind: 'kernel', kernel: '/images/vmlinuz', initrd: '/images/initrd', commandLine: 'console=ttyS0 root=/dev/vda' },
    start: 'fresh',
    inheritedCount: 0,
    ...over,
  }
}

test('the command line of a domain is this one', () => {
  assert.deepEqual(
    commandLine(input()),
    [
      ['-nodefaults', '-no-user-config', '-name', 'guest=web-1', '-uuid', ID],
      [
        '-machine',
        'pc-q35-7.2,vmport=off,dump-guest-core=off',
        '-accel',
        'tcg,thread=multi,tb-size=256',
        '-cpu',
        'Nehalem-v1,enforce=on',
      ],
      ['-smp', 'cpus=1,sockets=1,cores=1,threads=1', '-m', 'size=262144k', '-rtc', 'base=utc', '-boot', 'strict=on'],
      [
        '-S',
        '-no-shutdown',
        '-action',
        'panic=pause',
        '-sandbox',
        'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
      ],
      ['-msg', 'timestamp=on', '-pidfile', `/run/tv/${ID}/qemu.pid`],
      ['-chardev', `socket,id=qmp,path=/run/tv/${ID}/qmp.sock,server=on,wait=off`, '-mon', 'chardev=qmp,mode=control'],
      ['-chardev', 'null,id=console', '-device', '{"driver":"isa-serial","id":"serial0","chardev":"console","index":0}'],
      ['-device', '{"driver":"pvpanic","id":"panic0"}'],
      ['-device', '{"driver":"VGA","id":"video0","bus":"pcie.0","addr":"1.0"}'],
      ['-device', '{"driver":"virtio-serial-pci","id":"agent0","bus":"pcie.0","addr":"2.0"}'],
      ['-chardev', `socket,id=agent0-channel,path=/run/tv/${ID}/agent.sock,server=on,wait=off`],
      '-device',
      '{"driver":"virtserialport","id":"agent0-port","bus":"agent0.0","chardev":"agent0-channel","name":"org.qemu.guest_agent.0","nr":1}',
      ['-object', '{"qom-type":"rng-builtin","id":"rng0-source"}'],
      ['-device', '{"driver":"virtio-rng-pci","id":"rng0","bus":"pcie.0","addr":"3.0","rng":"rng0-source"}'],
      '-device',
      '{"driver":"virtio-balloon-pci","id":"balloon0","bus":"pcie.0","addr":"4.0","deflate-on-oom":true,"free-page-reporting":true}',
      ['-netdev', '{"type":"user","id":"nic0-link"}'],
      '-device',
      '{"driver":"virtio-net-pci","id":"nic0","bus":"pcie.0","addr":"5.0","netdev":"nic0-link","mac":"52:23:45:67:89:ab","romfile":""}',
      '-blockdev',
      '{"driver":"file","node-name":"disk0-base1-file","filename":"/images/base.qcow2","locking":"on","read-only":true}',
      '-blockdev',
      '{"driver":"qcow2","node-name":"disk0-base1-format","file":"disk0-base1-file","backing":null,"read-only":true}',
      '-blockdev',
      '{"driver":"file","node-name":"disk0-file","filename":"/data/root.qcow2","locking":"on","read-only":false,"discard":"unmap"}',
      '-blockdev',
      '{"driver":"qcow2","node-name":"disk0-format","file":"disk0-file","backing":"disk0-base1-format","read-only":false,"discard":"unmap"}',
      '-device',
      '{"driver":"virtio-blk-pci","id":"disk0","bus":"pcie.0","addr":"8.0","drive":"disk0-format","serial":"root-0123456789ab","werror":"stop","rerror":"stop","num-queues":1}',
      ['-vnc', `unix:/run/tv/${ID}/vnc.sock`],
      ['-kernel', '/images/vmlinuz', '-append', 'console=ttyS0 root=/dev/vda', '-initrd', '/images/initrd'],
    ].flat(),
  )
})

test('a domain that may grow has places for vCPUs and memory, and begins with what is set', () => {
  const spec = { ...domain.spec, vcpuCountMax: 4, memoryBytesMax: mib(512) }
  const hardware = planHardware(domain.id, spec, [{ name: 'root', volume: `${ID}.root` as VolumeId, readOnly: false }])
  const of = (settings: DomainSettings, more: Partial<DomainSpec> = {}) =>
    commandLine(input({ domain: { ...domain, hardware, settings, spec: { ...spec, ...more } } })).join('\n')
  const grown = of({ vcpuCount: 3, memoryBytes: mib(384) })
  assert.match(grown, /^cpus=3,maxcpus=4,sockets=1,cores=4,threads=1$/m)
  assert.match(grown, /^size=262144k,maxmem=524288k$/m)
  assert.match(grown, /^\{"qom-type":"memory-backend-ram","id":"memory0-ram","size":268435456,"reserve":false\}$/m)
  assert.match(
    grown,
    /^\{"driver":"virtio-mem-pci","id":"memory0","bus":"pcie.0","addr":"1e.0","memdev":"memory0-ram","requested-size":134217728\}$/m,
  )
  assert.match(grown, /"num-queues":4/)
  const seen = (text: string) => text.replace(/^cpus=\d/m, '').replace(/"requested-size":\d+/, '')
  assert.equal(seen(of({})), seen(grown), 'but for how much of it is there, it is the same machine')
  const fewer = of({ vcpuCount: 1 }, { vcpuCount: 2, vcpuCountMax: 2 })
  assert.match(fewer, /^cpus=1,sockets=1,cores=2,threads=1$/m)
  assert.match(fewer, /"num-queues":2/, 'as with both: a save of either is restored by either')
  const huge = of({}, { hugePages: true })
  assert.match(huge, /^pc-q35-7.2,vmport=off,dump-guest-core=off,memory-backend=ram0$/m)
  assert.match(huge, /^\{"qom-type":"memory-backend-memfd","id":"ram0","size":268435456,"hugetlb":true\}$/m)
  assert.match(huge, /"id":"memory0-ram","size":268435456,"hugetlb":true,"reserve":false.*\n.*\n.*"prealloc":true/)
})

test('inherited descriptors, KVM, a restore and a boot from disk are said so', () => {
  const argv = commandLine(input({ inheritedCount: 2, accelerator: 'kvm', start: 'incoming', boot: { kind: 'disk' } }))
  assert.ok(argv.join(' ').includes('-add-fd fd=3,set=1 -add-fd fd=4,set=2'))
  assert.equal(argv[argv.indexOf('-accel') + 1], 'kvm')
  assert.deepEqual(argv.slice(-2), ['-incoming', 'defer'])
  assert.ok(argv.some((word) => word.includes('"bootindex":1')))
  assert.equal(argv.includes('-kernel'), false)
})

test('a volume behind NBD reconnects, frees what is discarded or zeroed, and keeps the flushes of the guest', () => {
  const argv = commandLine(
    input({ disks: new Map([['root', { kind: 'nbd', socketPath: '/run/nbd,x.sock', exportName: 'a,b' }]]) }),
  )
  assert.ok(
    argv.includes(
      '{"driver":"nbd","node-name":"disk0-file","server":{"type":"unix","path":"/run/nbd,x.sock"},"export":"a,b","reconnect-delay":300,"open-timeout":10,"read-only":false,"discard":"unmap"}',
    ),
  )
  assert.ok(
    argv.includes(
      '{"driver":"raw","node-name":"disk0-format","file":"disk0-file","read-only":false,"discard":"unmap","detect-zeroes":"unmap"}',
    ),
  )
  assert.doesNotMatch(argv.join(' '), /no-flush|writeback|unsafe/)
})

test('a guest that wants the error of a full disk gets those of its writes; a failed read stops it as ever', () => {
  const argv = commandLine(input({ domain: { ...domain, spec: { ...domain.spec, diskFull: 'error' } } })).join(' ')
  assert.match(argv, /"werror":"report","rerror":"stop"/)
})

test('a disk that has no volume attached is refused', () => {
  assert.throws(() => commandLine(input({ disks: new Map() })), { code: 'invalid', message: /disk root: no volume attached/ })
})

const OPTIONS = new Set(commandLine(input()).filter((word) => /^-[a-z-]+$/i.test(word)))

test('no name, path or command line can become an option of QEMU', () => {
  const hostile = fc.oneof(
    fc.constantFrom(
      'a,if=none',
      '-x',
      '--help',
      ',',
      ',,',
      'x,server=off',
      '"}',
      '{"driver":"x"}',
      '../../etc/passwd',
      'a\nb',
      '\u0000',
      '-daemonize',
    ),
    fc.string({ unit: 'binary', maxLength: 40 }),
  )
  fc.assert(
    fc.property(hostile, hostile, hostile, (name, path, words) => {
      const argv = commandLine(
        input({
          domain: { ...domain, name: name as DomainName },
          paths: { ...paths, qmp: `/run/${path}`, agent: `/run/${path}`, vnc: `/run/${path}`, pid: `/run/${path}` },
          disks: new Map([['root', { kind: 'chain', layers: [{ filename: `/data/${path}`, format: 'raw' }] }]]),
          boot: { kind: 'kernel', kernel: `/images/${path}`, initrd: null, commandLine: words },
        }),
      )
      // Every option is one of ours, and every value stands where a value belongs.
      const plain = commandLine(
        input({ disks: new Map([['root', { kind: 'chain', layers: [{ filename: '/x', format: 'raw' }] }]]) }),
      )
      const bare = plain.slice(0, plain.indexOf('-initrd'))
      assert.equal(argv.length, bare.length)
      for (const [at, word] of bare.entries()) if (OPTIONS.has(word)) assert.equal(argv[at], word)
      assert.equal(argv[argv.indexOf('-append') + 1], words)
      assert.equal(argv[argv.indexOf('-name') + 1], `guest=${quoteOption(name)}`)
      const channel = argv.find((word) => word.startsWith('socket,id=qmp,')) ?? ''
      assert.equal(unquoted(channel)['path'], `/run/${path}`)
      assert.equal(unquoted(channel)['server'], 'on')
      for (const word of argv.filter((one) => one.startsWith('{"driver":"file"'))) {
        assert.equal((JSON.parse(word) as { filename: string }).filename, `/data/${path}`)
      }
    }),
  )
})

/** QEMU's own reading: `,,` is a comma, `,` ends a value. */
function unquoted(option: string): Record<string, string> {
  const parts = option.match(/(?:,,|[^,])+/gs) ?? []
  return Object.fromEntries(
    parts.map((part) => {
      const at = part.indexOf('=')
      return [part.slice(0, at), part.slice(at + 1).replaceAll(',,', ',')]
    }),
  )
}

const over = (hardware: Partial<DriverDomain['hardware']>): CommandLineInput =>
  input({ domain: { ...domain, hardware: { ...domain.hardware, ...hardware } } })

test('a machine, processor, address or MAC that is none is refused by name', () => {
  for (const bad of ['pc,accel=kvm', '', '-x', 'a b', 'none\n']) {
    assert.throws(() => commandLine(over({ machine: bad })), { code: 'invalid', message: /hardware\.machine/ })
    assert.throws(() => commandLine(over({ cpuModel: bad })), { code: 'invalid', message: /hardware\.cpuModel/ })
    assert.throws(() => commandLine(over({ devices: [{ kind: 'rng', name: 'rng', address: bad }] })), {
      code: 'invalid',
      message: /address/,
    })
    const nic = { kind: 'nic', name: 'nic0', mac: bad, address: '5.0', forwards: [] } as const
    assert.throws(() => commandLine(over({ devices: [nic] })), { code: 'invalid', message: /mac/ })
  }
})

test('QEMU itself takes hostile names and paths as values', async (t) => {
  const volume = Object.keys(domain.volumes)[0] as VolumeId
  assert.ok(volume)
  const name = 'a,if=none,process=-x' as DomainName
  const argv = commandLine(
    input({
      domain: { ...domain, name },
      disks: new Map([['root', { kind: 'chain', layers: [{ filename: '/no/such,driver=raw"}', format: 'raw' }] }]]),
    }),
  )
  const plain = argv.filter(
    (_, at) => !['-pidfile', '-vnc'].includes(argv[at] ?? '') && !['-pidfile', '-vnc'].includes(argv[at - 1] ?? ''),
  )
  const channels = plain.map((word) => word.replace(/^socket,id=([a-z0-9-]+),.*/, 'null,id=$1'))
  const { stderr } = (await promisify(execFile)('qemu-system-x86_64', channels, { timeout: 10_000 }).catch(
    (error: unknown) => error,
  )) as { stderr: string }
  t.diagnostic(stderr.trim())
  assert.match(stderr, /Could not open '\/no\/such,driver=raw"\}': No such file/)
})

/**
 * One script that is the life of a domain, and what each of its steps has led to, seen from within the guest and from its hosts. The command
 * line, the library and the portal walk it, each in its own way (`npm test -- one-script`); docs/one-script.md has the first two as they are
 * typed.
 *
 *   step, by a runner --> done(step): is it the one that is next? --> seen[step]: guest (a shell, by its agent), host (/proc, cgroups, files)
 *                                                                 --> ready[next]: what is there to be changed by the next step
 *
 * The guest counts in its memory, 20 times a second, and answers on two TCP ports with its count. While it moves, `pings.ts` asks it all the
 * while, and the guest asks its gateway by ICMP.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ask, startPings, type PingReport, type Pings } from './pings.ts'

const MIB = 1024 * 1024

/** What is done, in this order, to a guest that is called `web-1`, on two hosts that are called `left` and `right`. */
export const SCRIPT = {
  create: { vcpuCount: 1, vcpuCountMax: 2, memoryBytes: 192 * MIB, rootDiskBytes: 256 * MIB, guestPort: 7 },
  console: { types: 'echo $((6*7)) >/root/answer' },
  pause: {},
  save: {},
  restore: {},
  snapshot: { snapshot: 'good' },
  revert: { snapshot: 'good' },
  'attach-disk': { device: 'data', sizeBytes: 64 * MIB },
  'attach-nic': { device: 'lan', guestPort: 8 },
  'plug-vcpu': { vcpuCount: 2 },
  balloon: { memoryTargetBytes: 128 * MIB },
  pin: { cpus: '0' },
  weight: { cpuWeight: 50 },
  migrate: { to: 'right' },
  destroy: {},
} as const
export type StepName = keyof typeof SCRIPT
export const STEPS = Object.keys(SCRIPT) as readonly StepName[]
export const INSTANCE = 'web-1'
export type HostName = 'left' | 'right'

type Forwards = readonly { readonly hostPort: number; readonly guestPort: number }[]
/** What a runner knows of its domain, by its own means. */
export interface DomainLook {
  readonly id: string
  readonly host: HostName
  readonly state: string
  /** The state with its reason, for whoever reads a failure. */
  readonly why: string
  readonly forwards: Forwards
  readonly snapshotCount: number
}

export interface Eyes {
  /** Data folders of the hosts' agents. */
  readonly folders: Readonly<Record<HostName, string>>
  /** null: there is no such domain. */
  look(): Promise<DomainLook | null>
  /** A shell in the guest; what it says. @throws while it does not answer, and for an exit code that is not 0. */
  inGuest(script: string): Promise<string>
  statistics(): Promise<{ readonly balloonBytes: number | null; readonly vcpuCount: number }>
  device(name: string): Promise<{ readonly mac: string | null; readonly forwards: Forwards } | null>
}

/** Whoever may not make cgroups cannot do all of it. */
export const whyNoScript = (): string | false =>
  process.getuid?.() === 0
    ? availableParallelism() < 2
      ? 'to be pinned to one of several CPUs wants two'
      : false
    : 'a CPU weight wants a host whose agent may make cgroups: root'

async function until(what: string, look: () => Promise<boolean>, limitMs = 60_000): Promise<void> {
  const end = performance.now() + limitMs
  let last: unknown = null
  while (true) {
    try {
      if (await look()) return
    } catch (error) {
      last = error
    }
    assert.ok(performance.now() < end, `${what}: not in ${limitMs} ms${last === null ? '' : `: ${String(last)}`}`)
    await sleep(50)
  }
}

/** The guest's processes, by the host whose agent started them. An agent's run folder is named by its data folder. */
function qemusOf(id: string, folder: string): number[] {
  const tag = `agent-${createHash('sha256').update(resolve(folder)).digest('hex').slice(0, 12)}`
  return readdirSync('/proc').flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return []
    try {
      const words = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0')
      const isIt = basename(words[0] ?? '').startsWith('qemu-system') && words[words.indexOf('-uuid') + 1] === id
      return isIt && words.some((word) => word.includes(tag)) ? [Number(entry)] : []
    } catch {
      return [] // It has ended.
    }
  })
}

/** Clock ticks that the process has run for: proc_pid_stat(5), utime and stime. */
function ticksOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  return Number(fields[11]) + Number(fields[12])
}

/** Threads of the process that may run on these CPUs and no others. */
const threadsOn = (pid: number, cpus: string): string[] =>
  readdirSync(`/proc/${pid}/task`).filter((tid) =>
    new RegExp(`^Cpus_allowed_list:\\s*${cpus}$`, 'm').test(readFileSync(`/proc/${pid}/task/${tid}/status`, 'utf8')),
  )

/** Of either version; null: the domain has no group. */
function groupOf(id: string): { readonly weight: number; readonly tids: string[] } | null {
  const read = (path: string): string => readFileSync(path, 'utf8').trim()
  const [first, second] = [`/sys/fs/cgroup/cpu/typevisor/${id}`, `/sys/fs/cgroup/typevisor/${id}`]
  // Version 1 has 1024 for what version 2 calls 100.
  if (existsSync(first))
    return { weight: (Number(read(`${first}/cpu.shares`)) * 100) / 1024, tids: read(`${first}/tasks`).split('\n') }
  if (existsSync(second))
    return { weight: Number(read(`${second}/cpu.weight`)), tids: read(`${second}/vcpus/cgroup.threads`).split('\n') }
  return null
}

/** In the guest: it counts, and says its count to whoever asks. What is read while it is being written is read again. */
const COUNTS = `cat >/run/answers <<'END'
#!/bin/sh
while read -r question; do
  until read -r n </run/count; do :; done
  echo "$question $n"
done
END
chmod +x /run/answers
(n=0; while :; do n=$((n+1)); echo $n >/run/count; sleep 0.05; done) >/dev/null 2>&1 </dev/null &
for port in ${SCRIPT.create.guestPort} ${SCRIPT['attach-nic'].guestPort}; do
  nc -ll -p $port -e /run/answers >/dev/null 2>&1 </dev/null &
done`
const COUNT = 'until read -r n </run/count; do :; done; echo $n'
/** A shell's words for the disk that came. */
const DISK = `d=/dev/$(for each in /sys/block/vd*; do [ "$(cat $each/serial)" = ${SCRIPT['attach-disk'].device} ] && basename $each; done)`
const ON_DISK = 'written on data'
/** By DHCP of the card's own network; then its gateway is asked by ICMP. */
const cardUp = (mac: string): string => `cat >/run/lease <<'END'
#!/bin/sh
[ "$1" = bound ] && ip address replace $ip/24 dev $interface && echo $router >/run/router
exit 0
END
chmod +x /run/lease
card=$(basename $(dirname $(grep -l ${mac} /sys/class/net/*/address)))
ip link set $card up && udhcpc -i $card -n -q -t 5 -T 1 -s /run/lease >/dev/null 2>&1
ping -c 1 -W 5 -I $card $(cat /run/router) | grep -c 'bytes from'`
/** ICMP ends at the user network's own gateway; nobody outside can ask the guest by it. */
const GATEWAY = '10.0.2.2'

interface Migrating {
  readonly pings: Pings
  readonly stop: AbortController
  readonly following: Promise<void>
}

/** While it moves, with what it takes to find its new port, on a busy machine without hardware virtualization (seen: 450 to 1250 ms); and else. */
const GAP_MS_MAX = 5000
const OTHER_GAP_MS_MAX = 2000

export interface Walk extends AsyncDisposable {
  /** A step has been done: it was the next one, and guest and host show it. */
  done(step: StepName): Promise<void>
  /** All of them have been. */
  over(): void
}

export function walk(eyes: Eyes, tell: (what: string) => void = () => {}): Walk {
  const script = new ScriptWalk(eyes, tell)
  let at = 0
  return {
    async done(step) {
      assert.equal(step, STEPS[at], `step ${at + 1} of the script`)
      await script.seen[step]()
      at += 1
      const next = STEPS[at]
      if (next !== undefined) await script.ready[next]?.()
    },
    over: () => assert.deepEqual(STEPS.slice(at), [], 'steps of the script that were not done'),
    [Symbol.asyncDispose]: () => script.end(),
  }
}

class ScriptWalk {
  readonly #eyes: Eyes
  readonly #tell: (what: string) => void
  #boot = ''
  #count = 0
  #migrating: Migrating | null = null
  #id = ''

  constructor(eyes: Eyes, tell: (what: string) => void) {
    this.#eyes = eyes
    this.#tell = tell
  }

  /** Whatever is under way of it. */
  async end(): Promise<void> {
    this.#migrating?.stop.abort()
    await this.#migrating?.following
    await this.#migrating?.pings.end()
    this.#migrating = null
  }

  async #look(): Promise<DomainLook> {
    const found = await this.#eyes.look()
    assert.ok(found, `there is no ${INSTANCE}`)
    return found
  }

  /** Exactly one process on one host, none on the other one, and its state. */
  async #is(state: string, on: HostName | null): Promise<number> {
    const { state: now, why, host, id } = await this.#look()
    assert.equal(now, state, `on ${host}: ${why}, want ${state}`)
    this.#id = id
    const { left, right } = this.#eyes.folders
    const [here, there] = [qemusOf(id, left), qemusOf(id, right)]
    assert.deepEqual([here.length, there.length], [on === 'left' ? 1 : 0, on === 'right' ? 1 : 0], 'processes on left and right')
    if (on !== null) assert.equal(host, on)
    return here[0] ?? there[0] ?? 0
  }

  #untilAnswers(limitMs?: number): Promise<void> {
    return until('the guest answers', async () => (await this.#eyes.inGuest('echo here')) === 'here', limitMs)
  }

  async #says(script: string, want: string): Promise<void> {
    assert.equal(await this.#eyes.inGuest(script), want, script)
  }

  async #answers(guestPort: number, limitMs = 5000): Promise<number | null> {
    return await ask((await this.#forwardTo(guestPort)).hostPort, limitMs)
  }

  async #forwardTo(guestPort: number): Promise<Forwards[number]> {
    const forward = (await this.#look()).forwards.find((each) => each.guestPort === guestPort)
    assert.ok(forward && forward.hostPort > 0, `no port of the host leads to ${guestPort}`)
    return forward
  }

  /** It is the guest that was begun: it has not booted since, and its memory goes on counting. */
  async #goesOn(): Promise<void> {
    await this.#untilAnswers()
    await this.#says('cat /proc/sys/kernel/random/boot_id', this.#boot)
    const count = Number(await this.#eyes.inGuest(COUNT))
    assert.ok(count >= this.#count, `its count went back from ${this.#count} to ${count}`)
    await until('it counts on', async () => Number(await this.#eyes.inGuest(COUNT)) > count)
  }

  readonly ready: Partial<Record<StepName, () => Promise<void>>> = {
    pause: async () => {
      const count = await this.#answers(SCRIPT.create.guestPort)
      assert.ok(count !== null, 'it answers')
      this.#count = count
    },
    snapshot: () => this.#says('echo before | tee /root/file >/run/memory; sync', ''),
    revert: () => this.#says('echo after | tee /root/file >/run/memory; sync', ''),
    migrate: async () => {
      const { guestPort } = SCRIPT.create
      this.#count = Number(await this.#eyes.inGuest(COUNT))
      await this.#says(`ping -i 0.1 ${GATEWAY} >/run/icmp 2>&1 </dev/null & echo $! >/run/icmp.pid`, '')
      const pings = startPings()
      const stop = new AbortController()
      const portsNow = async () =>
        (await this.#look()).forwards.filter((each) => each.guestPort === guestPort && each.hostPort > 0)
      const ports = new Set<number>()
      // As a client that asks where the guest is; what is not known now is asked again.
      const follow = async () => {
        while (!stop.signal.aborted) {
          const found = await portsNow().catch(() => [])
          if (found.some(({ hostPort }) => !ports.has(hostPort))) {
            for (const { hostPort } of found) ports.add(hostPort)
            pings.to([...ports])
          }
          await sleep(25)
        }
      }
      const following = follow()
      await until('the guest is asked', async () => ports.size > 0)
      await sleep(1000)
      this.#migrating = { pings, stop, following }
    },
    destroy: async () => {
      assert.ok(groupOf(this.#id), 'it has a group')
    },
  }

  readonly seen: Readonly<Record<StepName, () => Promise<void>>> = {
    create: async () => {
      await this.#untilAnswers(120_000)
      await this.#is('running', 'left')
      await this.#says('nproc', String(SCRIPT.create.vcpuCount))
      await this.#says('cat /sys/block/vda/size', String(SCRIPT.create.rootDiskBytes / 512))
      this.#boot = await this.#eyes.inGuest('cat /proc/sys/kernel/random/boot_id')
      await this.#says(COUNTS, '')
      await until('it counts', async () => Number(await this.#eyes.inGuest(COUNT)) > 3)
      await until('it answers on its port', async () => (await this.#answers(SCRIPT.create.guestPort)) !== null)
    },
    console: async () => {
      await until('what was typed was done', async () => (await this.#eyes.inGuest('cat /root/answer')) === '42')
      await this.#is('running', 'left')
    },
    pause: async () => {
      const pid = await this.#is('paused', 'left')
      const before = ticksOf(pid)
      assert.equal(await this.#answers(SCRIPT.create.guestPort, 1000), null, 'it answers while it is paused')
      const ticks = ticksOf(pid) - before
      assert.ok(ticks <= 20, `its process ran for ${ticks} of 100 ticks`)
    },
    save: async () => {
      await this.#is('saved', null)
      const folder = join(this.#eyes.folders.left, 'saves')
      const sizes = (await readdir(folder))
        .filter((name) => name.startsWith(this.#id))
        .map((name) => statSync(join(folder, name)).size)
      assert.ok(
        sizes.some((size) => size > 8 * MIB),
        `saves of ${sizes.join(', ')} bytes`,
      )
    },
    restore: async () => {
      await this.#is('running', 'left')
      await this.#goesOn()
      await until('it answers on its port', async () => (await this.#answers(SCRIPT.create.guestPort)) !== null)
    },
    snapshot: async () => {
      await this.#is('running', 'left')
      assert.equal((await this.#look()).snapshotCount, 1)
      await this.#goesOn()
    },
    revert: async () => {
      await this.#is('running', 'left')
      // Its count, too, is the one of then.
      this.#count = 0
      await this.#goesOn()
      await this.#says('cat /root/file /run/memory', 'before\nbefore')
    },
    'attach-disk': async () => {
      await until('it sees the disk', () => this.#eyes.inGuest(`${DISK}; [ -b $d ]`).then(() => true))
      await this.#says(`${DISK}; cat /sys/block/$(basename $d)/size`, String(SCRIPT['attach-disk'].sizeBytes / 512))
      await this.#says(`${DISK}; echo ${ON_DISK} | dd of=$d conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches`, '')
      await this.#says(`${DISK}; head -c ${ON_DISK.length} $d`, ON_DISK)
    },
    'attach-nic': async () => {
      const { mac, forwards } = (await this.#eyes.device(SCRIPT['attach-nic'].device)) ?? {}
      assert.ok(mac)
      const { hostPort } = await this.#forwardTo(SCRIPT['attach-nic'].guestPort)
      assert.deepEqual(
        forwards?.map((each) => each.hostPort),
        [hostPort],
      )
      await until('it sees the card', () => this.#eyes.inGuest(`grep -l ${mac} /sys/class/net/*/address`).then(() => true))
      await this.#says(cardUp(mac), '1')
      assert.ok((await this.#answers(SCRIPT['attach-nic'].guestPort)) !== null, 'it answers by way of the card')
    },
    'plug-vcpu': async () => {
      await until('it sees the vCPU', async () => (await this.#eyes.inGuest('nproc')) === String(SCRIPT['plug-vcpu'].vcpuCount))
      assert.equal((await this.#eyes.statistics()).vcpuCount, SCRIPT['plug-vcpu'].vcpuCount, 'threads on the host')
    },
    balloon: () => this.#ballooned(),
    pin: () => this.#pinned('left'),
    weight: () => this.#weighed('left'),
    migrate: async () => {
      await this.#is('running', 'right')
      const { pings, stop, following } = this.#migrating as Migrating // it was made ready
      const { hostPort } = await this.#forwardTo(SCRIPT.create.guestPort)
      await until('it answers by its new port', async () => pings.hasAnswered(hostPort), GAP_MS_MAX)
      // And goes on so.
      await sleep(1000)
      stop.abort()
      await following
      this.#migrating = null
      this.#tell(assertPings(await pings.end(), hostPort))
      await this.#says('kill -INT $(cat /run/icmp.pid)', '')
      await until('its own pings are counted', async () => /packets received/.test(await this.#eyes.inGuest('cat /run/icmp')))
      this.#tell(`by ICMP: ${assertIcmp(await this.#eyes.inGuest('cat /run/icmp'))}`)
      // With all that it has been given, and nothing of it is left behind.
      await this.#goesOn()
      await this.#says('cat /root/file /run/memory /root/answer; nproc', 'before\nbefore\n42\n2')
      await this.#says(`echo 3 >/proc/sys/vm/drop_caches; ${DISK}; head -c ${ON_DISK.length} $d`, ON_DISK)
      await this.#ballooned()
      await this.#pinned('right')
      await this.#weighed('right')
      assert.ok((await this.#answers(SCRIPT['attach-nic'].guestPort)) !== null, 'it answers by way of the card')
      await this.#nothingAt('left')
    },
    destroy: async () => {
      assert.equal(await this.#eyes.look(), null)
      const { left, right } = this.#eyes.folders
      assert.deepEqual([...qemusOf(this.#id, left), ...qemusOf(this.#id, right)], [])
      await until('its group is gone', async () => groupOf(this.#id) === null, 10_000)
      for (const host of ['left', 'right'] as const) await this.#nothingAt(host)
    },
  }

  async #ballooned(): Promise<void> {
    const { memoryTargetBytes } = SCRIPT.balloon
    await until('the balloon is there', async () => (await this.#eyes.statistics()).balloonBytes === memoryTargetBytes)
    const given = `awk '/^balloon_inflate/ {n += $2} /^balloon_deflate/ {n -= $2} END {print n * 4096}' /proc/vmstat`
    await this.#says(given, String(SCRIPT.create.memoryBytes - memoryTargetBytes))
  }

  async #pinned(host: HostName): Promise<void> {
    const pid = await this.#is('running', host)
    assert.equal(threadsOn(pid, SCRIPT.pin.cpus).length, SCRIPT['plug-vcpu'].vcpuCount, 'threads on that CPU alone')
    assert.ok(threadsOn(pid, `0-${availableParallelism() - 1}`).length > 0, 'its other threads run anywhere')
  }

  async #weighed(host: HostName): Promise<void> {
    const pid = await this.#is('running', host)
    const group = groupOf(this.#id)
    assert.deepEqual(
      [group?.weight, group?.tids.toSorted()],
      [SCRIPT.weight.cpuWeight, threadsOn(pid, SCRIPT.pin.cpus).toSorted()],
    )
  }

  async #nothingAt(host: HostName): Promise<void> {
    for (const name of ['domains', 'volumes', 'saves']) {
      assert.deepEqual(await readdir(join(this.#eyes.folders[host], name)), [], `${name} of ${host}`)
    }
  }
}

/** Nothing is lost but while the guest stood still and its new port was not known, nobody answers twice, and its count never goes back. */
export function assertPings({ askedMs, answers }: PingReport, portNow: number): string {
  const there = answers.findIndex(({ port }) => port === portNow)
  const [last, first] = [answers[there - 1], answers[there]]
  assert.ok(
    last && first,
    `answers of ${[...new Set(answers.map(({ port }) => port))].join(' and ')}, want of two ports, ${portNow} the second`,
  )
  assert.ok(
    answers.slice(there).every(({ port }) => port === portNow),
    'the old host answers behind the new one',
  )
  assert.equal(new Set(answers.map(({ question }) => question)).size, answers.length, 'a question is answered twice')
  const back = answers.find(({ count }, index) => count < (answers[index - 1]?.count ?? 0))
  assert.ok(!back, `its count went back to ${back?.count}`)
  const answered = new Set(answers.map(({ question }) => question))
  const end = answers.at(-1)?.question ?? 0
  const begin = answers[0]?.question ?? 0
  const lost = askedMs.flatMap((_, question) => (question > begin && question < end && !answered.has(question) ? [question] : []))
  const outside = lost.filter((question) => question < last.question || question > first.question)
  assert.deepEqual(outside, [], `questions without an answer, not between ${last.question} and ${first.question}`)
  const gapMs = first.atMs - last.atMs
  assert.ok(gapMs <= GAP_MS_MAX, `it did not answer for ${gapMs} ms`)
  const gapsMs = answers.slice(1).map(({ atMs }, index) => atMs - (answers[index]?.atMs ?? 0))
  const otherGapMs = Math.max(...gapsMs.filter((_, index) => index !== there - 1))
  assert.ok(otherGapMs <= OTHER_GAP_MS_MAX, `while it did not move it did not answer for ${otherGapMs} ms`)
  return `${answers.length} answers, ${lost.length} lost in the one gap of ${Math.round(gapMs)} ms, by ${first.count - last.count} counts; else at most ${Math.round(otherGapMs)} ms apart`
}

/** The guest's own clock stands still with it: what is lost is what was on its way. */
function assertIcmp(said: string): string {
  const [, sent, received] = /(\d+) packets transmitted, (\d+) packets received/.exec(said) ?? []
  assert.ok(Number(sent) > 20, said)
  assert.ok(Number(sent) - Number(received) <= 2, said)
  return `${sent} sent, ${received} answered`
}

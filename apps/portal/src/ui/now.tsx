import { useEffect, useState } from 'react'
import { ago, exactTime } from './time.ts'

const TICK_MS = 10_000
const listeners = new Set<(now: number) => void>()
let timer: ReturnType<typeof setInterval> | null = null

/** One clock for the whole page: a thousand rows that say "5 s ago" share a timer. */
export function useNow(): number {
  const [now, setNow] = useState(Date.now)
  useEffect(() => {
    listeners.add(setNow)
    timer ??= setInterval(() => listeners.forEach((listener) => listener(Date.now())), TICK_MS)
    return () => {
      listeners.delete(setNow)
      if (listeners.size === 0 && timer !== null) {
        clearInterval(timer)
        timer = null
      }
    }
  }, [])
  return now
}

export function Ago({ at }: { readonly at: number }) {
  const now = useNow()
  return (
    <time className="num" dateTime={new Date(at).toISOString()} title={exactTime(at)}>
      {ago(at, now)}
    </time>
  )
}

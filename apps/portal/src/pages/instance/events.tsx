import { Timeline } from '../timeline.tsx'
import { useInstance } from './instance.tsx'

export function Events() {
  const { id, name } = useInstance()
  return <Timeline resource={id} name={name} awaits="Starts, stops and their causes appear here as they happen." />
}

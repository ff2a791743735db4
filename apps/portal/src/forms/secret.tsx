import { Text } from '@mantine/core'
import { CopyButton } from '../ui/copy.tsx'

/** A secret that the server keeps only a digest of: this is the one time it can be read. */
export function Secret({ secret, what }: { readonly secret: string; readonly what: string }) {
  return (
    <div>
      <Text size="sm" mb={6}>
        This is shown once. Copy it now; it cannot be read again.
      </Text>
      <div className="secret">
        <span className="mono" style={{ flex: 1 }} data-testid="secret">
          {secret}
        </span>
        <CopyButton text={secret} what={what} />
      </div>
    </div>
  )
}

import { Button } from '@mantine/core'
import { formatBytes } from '@typevisor/base'
import type { Reply } from '@typevisor/api'
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect } from 'react'
import { isUnfinished } from '../api/activity.ts'
import { useActivity } from '../api/activity-provider.tsx'
import { call } from '../api/client.ts'
import { apiQuery } from '../api/queries.ts'
import { useMay } from '../api/session.ts'
import { DataTable, type Column } from '../table/data-table.tsx'
import { Icon } from '../ui/icons.tsx'
import { Ago } from '../ui/now.tsx'
import { useComplaints } from '../ui/notices.tsx'
import { Empty, Failure, PageHead, Rows } from '../ui/page.tsx'
import { ProgressStrip } from '../ui/progress-strip.tsx'

type Image = Reply<'image.list'>['items'][number]
const STARTER = 'micro'

const COLUMNS: readonly Column<Image>[] = [
  {
    title: 'Image',
    main: true,
    cell: (image) => (
      <>
        <strong>{image.name}</strong>
        <div className="dim">{image.title}</div>
      </>
    ),
  },
  { title: 'Host', label: true, cell: (image) => image.host },
  { title: 'Size', label: true, cell: (image) => <span className="num">{formatBytes(image.sizeBytes)}</span> },
  { title: 'Least memory', wide: true, cell: (image) => <span className="num">{formatBytes(image.minimumMemoryBytes)}</span> },
  { title: 'Account', wide: true, cell: (image) => <span className="mono">{image.defaultUser}</span> },
  {
    title: 'Holds',
    wide: true,
    cell: (image) => (
      <span className="dim" style={{ fontSize: '0.86em' }}>
        {Object.entries(image.contents)
          .map(([name, version]) => `${name} ${version}`)
          .join(', ')}
      </span>
    ),
  },
  {
    title: 'Digest',
    wide: true,
    cell: (image) => (
      <span className="mono dim" title={image.digest}>
        {image.digest.replace(/^sha256:/, '').slice(0, 12)}
      </span>
    ),
  },
  { title: 'Built', label: true, shrink: true, cell: (image) => <Ago at={image.builtAt} /> },
]

export function Images() {
  const images = useQuery(apiQuery('image.list', {}))
  const { follow, follows } = useActivity()
  const { complain } = useComplaints()
  const queryClient = useQueryClient()
  const may = useMay()
  const building = follows.find((each) => each.operation.name.startsWith('image.') && isUnfinished(each.operation))
  const build = useMutation({
    mutationFn: () => call('image.build', { params: { image: STARTER }, query: {}, body: {} }),
    onSuccess: (accepted) => follow(accepted, STARTER),
    onError: (error) => complain(`Building ${STARTER} was refused`, error),
  })
  useEffect(() => {
    if (building === undefined) void queryClient.invalidateQueries({ queryKey: ['image.list'] })
  }, [building === undefined])

  const rows = images.data?.items ?? []
  const button = may('image.build') ? (
    <Button
      leftSection={<Icon name="image" />}
      variant={rows.length === 0 ? 'filled' : 'default'}
      loading={build.isPending}
      disabled={building !== undefined}
      onClick={() => build.mutate()}
      data-testid="build"
    >
      {rows.some((image) => image.name === STARTER) ? `Build ${STARTER} again` : `Build ${STARTER}`}
    </Button>
  ) : undefined
  return (
    <>
      <PageHead title="Images" actions={rows.length > 0 ? button : undefined} />
      {building !== undefined && <ProgressStrip title={building.title} operation={building.operation} />}
      <div className="panel">
        {images.isPending ? (
          <Rows count={3} />
        ) : images.data === undefined ? (
          <Failure what="The images" error={images.error} onRetry={() => void images.refetch()} />
        ) : rows.length === 0 ? (
          <Empty
            icon="image"
            title="No images yet"
            text={`${STARTER} is a small Debian: kernel, busybox, network, ssh and the guest agent. It is built from Debian's own packages in seconds.`}
            action={button}
          />
        ) : (
          <DataTable
            label="Images"
            rows={rows}
            columns={COLUMNS}
            rowKey={(row) => `${row.host}/${row.name}`}
            rowName={(row) => row.name}
          />
        )}
      </div>
    </>
  )
}

/** Our own icons, drawn on a 20 by 20 grid with one stroke. Decoration: what they mean is always said in words beside or by a label. */
import type { ReactNode } from 'react'

const SHAPES = {
  plus: <path d="M10 4v12M4 10h12" />,
  dots: <path d="M4.500 10h.01M10 10h.01M15.500 10h.01" strokeWidth="2.600" />,
  instance: <path d="M3.500 4.500h13v8.500h-13zM7 16.500h6M10 13v3.500" />,
  image: <path d="m10 3 7 3.600-7 3.600-7-3.600zM3 10l7 3.600 7-3.600M3 13.400 10 17l7-3.600" />,
  host: <path d="M3.500 3.500h13v5.200h-13zM3.500 11.300h13v5.200h-13zM6.500 6.100h.01M6.500 13.900h.01" />,
  operation: <path d="M3 10h3l2.200-5.500 3.600 11L14 10h3" />,
  gear: <path d="M3 5.500h7.500M14.500 5.500H17M3 14.500h2.500M9.500 14.500H17M12.500 3.500v4M7.500 12.500v4" />,
  sun: (
    <path d="M10 6.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM10 2v1.500M10 16.500V18M2 10h1.500M16.500 10H18M4.300 4.300l1.100 1.100M14.600 14.600l1.100 1.100M4.300 15.700l1.100-1.100M14.600 5.400l1.100-1.100" />
  ),
  moon: <path d="M16.500 11.600A6.800 6.800 0 0 1 8.400 3.500a6.800 6.800 0 1 0 8.100 8.100z" />,
  auto: <path d="M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14" />,
  search: <path d="M9 3.500a5.500 5.500 0 1 0 0 11 5.500 5.500 0 0 0 0-11zM13 13l3.800 3.800" />,
  up: <path d="m5.500 12 4.500-4.500 4.500 4.500" />,
  left: <path d="m12 5.500-4.500 4.500 4.500 4.500" />,
  right: <path d="m8 5.500 4.500 4.500-4.500 4.500" />,
  menu: <path d="M3.500 5.500h13M3.500 10h13M3.500 14.500h13" />,
  close: <path d="m5.500 5.500 9 9M14.500 5.500l-9 9" />,
  check: <path d="m4 10.500 4 4 8-9" />,
  alert: <path d="M10 3.200 17.600 16.500H2.400zM10 8v4M10 14.200h.01" />,
  info: <path d="M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 9.500v4M10 6.700h.01" />,
  copy: <path d="M7 7h9.500v9.500H7zM13 7V3.500H3.500V13H7" />,
  paste: <path d="M7 4.500H4.500v12h11v-12H13M7 3h6v3H7z" />,
  expand: <path d="M3.500 7.500v-4h4M12.500 3.500h4v4M16.500 12.500v4h-4M7.500 16.500h-4v-4" />,
  fit: <path d="M3.500 4.500h13v11h-13zM7 8l-1.500 2L7 12M13 8l1.500 2-1.500 2" />,
  edit: <path d="m4 13-.500 3.500L7 16 16.500 6.500l-3-3zM11.500 5.500l3 3" />,
  file: <path d="M5 3h6.500L15 6.500V17H5zM11.500 3v3.500H15" />,
  keyboard: <path d="M2.500 5.500h15v9h-15zM5.500 8.300h.01M8.500 8.300h.01M11.500 8.300h.01M14.500 8.300h.01M6.500 11.700h7" />,
  refresh: <path d="M16 5v4h-4M15.600 9A6 6 0 1 0 16 11.500" />,
  out: <path d="M8 3.500H3.500v13H8M12.500 6.500 16 10l-3.500 3.500M16 10H7.500" />,
  trash: <path d="M3.500 5.500h13M8 5.500v-2h4v2M5.500 5.500l.7 11h7.600l.7-11M8.500 9v4.500M11.500 9v4.500" />,
  play: <path d="M6 4v12l10-6z" />,
  pause: <path d="M6.500 4.500v11M13.500 4.500v11" strokeWidth="2.200" />,
  power: <path d="M10 3v6.500M6 5.600a6 6 0 1 0 8 0" />,
  snapshot: <path d="M3 6.500h3l1.500-2h5l1.500 2h3v9.500H3zM10 8.300a2.800 2.800 0 1 0 0 5.600 2.800 2.800 0 0 0 0-5.600z" />,
  device: <path d="M7 3.500v4M13 3.500v4M5 7.500h10v3.500a5 5 0 0 1-10 0zM10 16v1.500" />,
  save: <path d="M10 3v9M6.500 8.700 10 12.200l3.500-3.500M3.500 13.500v3h13v-3" />,
  restore: <path d="M10 12.200v-9M6.500 6.700 10 3.200l3.500 3.500M3.500 13.500v3h13v-3" />,
  key: <path d="M7 9a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM9.800 10.200 17 3M13.500 6.500l2.500 2.500" />,
} as const satisfies Record<string, ReactNode>

export type IconName = keyof typeof SHAPES

export function Icon({ name, size = 18 }: { readonly name: IconName; readonly size?: number }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 20 20"
      fill="none"
      stroke="currentColor"
      strokeWidth="1.6"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
      focusable="false"
    >
      {SHAPES[name]}
    </svg>
  )
}

export function Logo({ size = 26 }: { readonly size?: number }) {
  return (
    <svg width={size} height={size} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect width="32" height="32" rx="8" fill="#2f4fc4" />
      <path d="M7 9.500h18v4.200H7zM13.900 16h4.200v8h-4.200z" fill="#fff" />
      <path d="M7 16h4.200v2.600H7zM20.800 16H25v2.600h-4.200z" fill="#9db4ff" />
    </svg>
  )
}

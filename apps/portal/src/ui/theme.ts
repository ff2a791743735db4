/**
 * The look: quiet surfaces, one accent (lapis), states by colour and word together. System fonts only: the portal works in a closed
 * network. Contrast of text is at least 4.5:1 in both schemes.
 */
import { createTheme, type CSSVariablesResolver, type MantineColorsTuple } from '@mantine/core'

const lapis: MantineColorsTuple = [
  '#eef2ff',
  '#dde4fd',
  '#bcc9f8',
  '#98abf2',
  '#7890ec',
  '#5b76e2',
  '#4560d6',
  '#324cc0',
  '#2a409f',
  '#23367f',
]
const slate: MantineColorsTuple = [
  '#f7f8fa',
  '#eff1f4',
  '#e3e6eb',
  '#d3d8df',
  '#b4bbc6',
  '#8d96a5',
  '#667081',
  '#4a5362',
  '#333a46',
  '#1d222b',
]
const night: MantineColorsTuple = [
  '#d5dae2',
  '#b3bac6',
  '#8a93a2',
  '#626b7a',
  '#3c4450',
  '#2b323c',
  '#20262f',
  '#181d24',
  '#12161c',
  '#0c0f13',
]

export const theme = createTheme({
  primaryColor: 'lapis',
  primaryShade: { light: 7, dark: 6 },
  colors: { lapis, gray: slate, dark: night },
  fontFamily: 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif',
  fontFamilyMonospace:
    'ui-monospace, SFMono-Regular, "Cascadia Mono", "JetBrains Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace',
  fontSizes: { xs: '0.75rem', sm: '0.84rem', md: '0.92rem', lg: '1.05rem', xl: '1.25rem' },
  headings: {
    fontWeight: '620',
    sizes: { h1: { fontSize: '1.4rem', lineHeight: '1.3' }, h2: { fontSize: '1.05rem', lineHeight: '1.4' } },
  },
  defaultRadius: 'md',
  radius: { sm: '5px', md: '8px', lg: '12px' },
  cursorType: 'pointer',
  focusRing: 'auto',
  respectReducedMotion: true,
  components: {
    Button: { defaultProps: { size: 'sm' } },
    Checkbox: { defaultProps: { radius: 4 } },
    ActionIcon: { defaultProps: { variant: 'subtle', color: 'gray' } },
    Tooltip: { defaultProps: { openDelay: 350, withArrow: true } },
    Menu: { defaultProps: { shadow: 'md', position: 'bottom-end' } },
    Modal: { defaultProps: { centered: true, overlayProps: { backgroundOpacity: 0.45 } } },
    Drawer: { defaultProps: { overlayProps: { backgroundOpacity: 0.45 } } },
  },
})

/** Surfaces have names of their own, so that no page names a shade. */
export const cssVariables: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    '--mantine-color-body': '#ffffff',
    '--mantine-color-text': '#1d222b',
    '--mantine-color-dimmed': '#5d6778',
    '--mantine-color-error': '#bd2f2f',
    '--tv-canvas': '#f7f8fa',
    '--tv-panel': '#ffffff',
    '--tv-line': '#e3e6eb',
    '--tv-hover': '#f1f3f7',
    '--tv-chosen': '#eef2ff',
    '--tv-green': '#176a40',
    '--tv-amber': '#8a5708',
    '--tv-red': '#bd2f2f',
    '--tv-violet': '#6a45b8',
    '--tv-blue': '#2f5fc0',
    '--tv-grey': '#5d6778',
  },
  dark: {
    '--mantine-color-body': '#12161c',
    '--mantine-color-text': '#dfe3ea',
    '--mantine-color-dimmed': '#98a2b2',
    '--mantine-color-error': '#f08a86',
    '--tv-canvas': '#0e1216',
    '--tv-panel': '#161b22',
    '--tv-line': '#272e38',
    '--tv-hover': '#1c222b',
    '--tv-chosen': '#1c2440',
    '--tv-green': '#5fc48f',
    '--tv-amber': '#e0ad58',
    '--tv-red': '#f08a86',
    '--tv-violet': '#b59af0',
    '--tv-blue': '#86aaf5',
    '--tv-grey': '#98a2b2',
  },
})

/** What of a page cannot be read: text too faint on what is behind it, and controls that a screen reader has no word for. */
import type { Page } from 'playwright-core'

/** WCAG 2.2, success criterion 1.4.3, for text of ordinary size. */
const CONTRAST_MIN = 4.5

/** Each as `3.91 "text"`. What is switched off is exempt, and the terminal has colours of its own. */
export const faintTexts = (page: Page): Promise<string[]> =>
  page.evaluate((least) => {
    type Colour = readonly [number, number, number, number]
    const canvas = document.createElement('canvas')
    const brush = canvas.getContext('2d', { willReadFrequently: true })
    // Painted and read back: the one way to have any CSS colour as numbers.
    const colourOf = (css: string): Colour => {
      if (brush === null) return [0, 0, 0, 0]
      brush.clearRect(0, 0, 1, 1)
      brush.fillStyle = css
      brush.fillRect(0, 0, 1, 1)
      const [red = 0, green = 0, blue = 0, alpha = 0] = brush.getImageData(0, 0, 1, 1).data
      return [red, green, blue, alpha / 255]
    }
    const over = (top: Colour, under: Colour): Colour => {
      const mix = (index: 0 | 1 | 2): number => top[index] * top[3] + under[index] * (1 - top[3])
      return [mix(0), mix(1), mix(2), 1]
    }
    const behind = (element: Element | null): Colour => {
      if (element === null) return [255, 255, 255, 1]
      const own = colourOf(getComputedStyle(element).backgroundColor)
      return own[3] === 1 ? own : over(own, behind(element.parentElement))
    }
    const luminance = ([red, green, blue]: Colour): number => {
      const linear = (value: number): number =>
        value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4
      return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    }
    const found = new Set<string>()
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    for (let node = texts.nextNode(); node !== null; node = texts.nextNode()) {
      const text = node.textContent?.trim() ?? ''
      const element = node.parentElement
      if (text === '' || element === null || !element.checkVisibility({ visibilityProperty: true })) continue
      if (element.closest('.xterm, option, :disabled, [data-disabled], script, style') !== null) continue
      const back = behind(element)
      const pair = [luminance(over(colourOf(getComputedStyle(element).color), back)), luminance(back)]
      const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)
      if (ratio < least) found.add(`${ratio.toFixed(2)} "${text.slice(0, 40)}"`)
    }
    return [...found]
  }, CONTRAST_MIN)

/** The markup of controls without a name. */
export const namelessControls = (page: Page): Promise<string[]> =>
  page.evaluate(() =>
    [...document.querySelectorAll<HTMLElement>('a, button, input, select, textarea')]
      .filter((element) => element.checkVisibility({ visibilityProperty: true }))
      .filter((element) => {
        const labels = 'labels' in element ? (element.labels as NodeListOf<HTMLLabelElement> | null) : null
        return (element.ariaLabel ?? element.title) === '' && (labels?.length ?? 0) === 0 && element.textContent.trim() === ''
      })
      .map((element) => element.outerHTML.slice(0, 120)),
  )

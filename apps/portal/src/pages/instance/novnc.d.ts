/** What the screen uses of `@novnc/novnc`, which brings no types of its own (docs/API.md of the package). */
declare module '@novnc/novnc' {
  export default class RFB extends EventTarget {
    /** The channel may still be connecting; the screen's elements are put into `target`. */
    constructor(target: HTMLElement, channel: WebSocket, options?: { readonly shared?: boolean })
    /** Fits the guest's picture into `target`, keeping its shape. */
    scaleViewport: boolean
    /** A CSS background, seen beside the picture. */
    background: string
    focus(options?: FocusOptions): void
    blur(): void
    /** `keysym` as X11 names it, `code` as `KeyboardEvent.code`; without `down` the key is pressed and released. */
    sendKey(keysym: number, code: string, down?: boolean): void
    sendCtrlAltDel(): void
    disconnect(): void
  }
}

/**
 * The portal: what a person sees of the platform. React, talking to the typed client of the API table and to nothing else; built by
 * Vite into `dist`, which the server serves on its own origin.
 *
 *   pages/ --> forms/ table/ ui/ --> api/ --> @typevisor/api/client
 *     |                               |
 *   paths.ts (one typed builder)    live.ts: events say which answers are stale; nothing polls a list
 *
 * Invariants
 *   - No request leaves the origin: fonts, icons and code are in `dist`.
 *   - What can be done in a state comes from `VERBS`, who may do it from the API table; no page decides either.
 *   - Search, order and paging are the server's, and the address bar holds them: every view can be linked to.
 *   - What destroys asks for the name to be typed.
 *   - Every text has a contrast of 4.5:1 in both schemes, every control a name (`e2e/legible.ts`).
 *
 * Failure paths: 401 anywhere goes to sign-in and back; a lost connection shows a banner, resumes after the last event seen, and the
 * console goes on from the last byte seen and the screen is drawn anew; a page opened meanwhile comes when the platform is back
 * (`lazy-page.ts`); a fault is shown with the server's message, its details at their fields.
 *
 * What it is not: it holds no rule of its own about the cloud, and no state that a reload would lose.
 */

export { path, PATHS, safeReturn } from './paths.ts'

import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'
import { precompress } from './build/precompress.ts'

/** `TYPEVISOR_URL` is the server that `vite dev` hands API calls to. */
const server = process.env['TYPEVISOR_URL'] ?? 'http://127.0.0.1:7070'

export default defineConfig({
  plugins: [react(), precompress()],
  build: {
    target: 'es2023',
    // The polyfill is an inline script's worth of code for browsers that cannot run this target anyway.
    modulePreload: { polyfill: false },
    // A data: URL would need a hole in the content security policy.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    manifest: 'manifest.json',
  },
  server: { proxy: { '/api': { target: server, ws: true, changeOrigin: true } } },
})

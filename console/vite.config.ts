import { fileURLToPath } from "node:url";
import tailwind from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const bay = process.env["BAY_URL"] ?? "http://127.0.0.1:8700";

export default defineConfig({
  base: "/console/",
  plugins: [react(), tailwind()],
  resolve: { alias: { "bay-sandbox": here("../clients/typescript/src/index.ts"), "@": here("./src") } },
  // The server puts a fresh nonce into each answer: libraries make style elements as they run.
  html: { cspNonce: "__NONCE__" },
  build: {
    outDir: here("../src/bay/server/web/console"),
    emptyOutDir: true,
    assetsInlineLimit: 0,
    target: "es2022",
    reportCompressedSize: false,
    chunkSizeWarningLimit: 2_000, // scripts/build_console.py holds the limit that users feel
  },
  server: {
    // For work on the console: `BAY_API_KEY=… npm run dev` speaks to a Bay that runs, with that key.
    proxy: {
      "/v1": {
        target: bay,
        ws: true,
        headers: process.env["BAY_API_KEY"] ? { Authorization: `Bearer ${process.env["BAY_API_KEY"]}` } : {},
      },
      "/health": bay,
    },
  },
  // The files of tests share one page and its modules: to make those anew for each is nine tenths of the time.
  test: {
    environment: "jsdom",
    include: ["src/**/*.test.{ts,tsx}"],
    isolate: false,
    restoreMocks: true,
    unstubGlobals: true,
  },
});

/** Tests in a real Chromium against a Bay that runs: `tests/console/test_console_in_browser.py` starts both. */

import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: {
    alias: { "bay-sandbox": fileURLToPath(new URL("../clients/typescript/src/index.ts", import.meta.url)) },
  },
  test: {
    environment: "node",
    include: ["tests/**/*.browser.ts"],
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});

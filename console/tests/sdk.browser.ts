/** The TypeScript SDK as any page of a browser uses it: it is loaded into one, and writes. */

import { fileURLToPath } from "node:url";
import type { Page } from "playwright-core";
import { build } from "vite";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bay, KEY, URL_OF_BAY, visitor, withBrowser } from "./world";

withBrowser();

type Sdk = typeof import("bay-sandbox");

const PAGE = '<script type="module">import * as sdk from "/sdk.js"; window.sdk = sdk;</script>';
let source = "";

beforeAll(async () => {
  const entry = fileURLToPath(new URL("../../clients/typescript/src/index.ts", import.meta.url));
  const built = await build({
    configFile: false,
    logLevel: "error",
    build: {
      write: false,
      minify: false,
      lib: { entry, formats: ["es"], fileName: "sdk" },
      rollupOptions: { external: /^node:|^ws$/ },
    },
  });
  const [first] = [built].flat();
  if (first === undefined || !("output" in first)) throw new Error("the SDK was not built");
  source = first.output[0].code;
  await bay.sandboxes.create({ name: "sdk", wait: 60 });
});

afterAll(async () => {
  for await (const one of bay.sandboxes.list()) await one.delete();
});

/** A page of Bay's own address with the SDK in it. */
async function withSdk(): Promise<Page> {
  const { page } = await visitor();
  await page.route("**/sdk.js", (route) => route.fulfill({ contentType: "text/javascript", body: source }));
  await page.route("**/sdk.html", (route) => route.fulfill({ contentType: "text/html", body: PAGE }));
  await page.goto(`${URL_OF_BAY}/sdk.html`);
  return page;
}

test("text, bytes, blobs and input are written from a browser, over HTTP/1.1", async () => {
  const page = await withSdk();
  const sizes = await page.evaluate(
    async ([baseUrl, apiKey]) => {
      const { Client } = (globalThis as unknown as { sdk: Sdk }).sdk;
      const box = await new Client({ baseUrl, apiKey }).sandboxes.get("sdk");
      const large = new Uint8Array(3 << 20).map((_, at) => at % 251);
      const cat = await box.spawn("cat > typed", { stdinOpen: true });
      await cat.write("typed: é\n");
      await cat.write(new Uint8Array([104, 105, 10]));
      await cat.closeStdin();
      await cat.wait();
      return [
        await box.files.write("text", "größe"),
        await box.files.write("bytes", large),
        await box.files.upload(new Blob([large, "end"], { type: "text/html" }), "blob"),
        await box.files.write("empty", ""),
      ];
    },
    [URL_OF_BAY, KEY] as const,
  );
  expect(sizes).toEqual([7, 3 << 20, (3 << 20) + 3, 0]);
  const box = await bay.sandboxes.get("sdk");
  expect(await box.files.readText("text")).toBe("größe");
  expect(await box.files.readText("typed")).toBe("typed: é\nhi\n");
  const { stdout } = await box.run("head -c 3145728 blob | cmp - bytes && tail -c 3 blob");
  expect(stdout).toBe("end");
});

test("a stream that a browser cannot send fails, and leaves the file that was there", async () => {
  const box = await bay.sandboxes.get("sdk");
  await box.files.write("kept", "old");
  const page = await withSdk();
  const name = await page.evaluate(
    async ([baseUrl, apiKey]) => {
      const { Client } = (globalThis as unknown as { sdk: Sdk }).sdk;
      const mine = await new Client({ baseUrl, apiKey, retryS: 0 }).sandboxes.get("sdk");
      return mine.files.upload(new Blob(["new"]).stream(), "kept").then(
        () => "written",
        (error: Error) => error.name,
      );
    },
    [URL_OF_BAY, KEY] as const,
  );
  expect(name).toBe("ConnectionFailed");
  expect(await box.files.readText("kept")).toBe("old");
});

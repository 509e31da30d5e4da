/** Two gigabytes from the disk of a browser: with progress, taken back, and not through its memory. */

import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bay, goTo, PATIENCE_MS, signedIn, withBrowser } from "./world";

withBrowser();

const MIB = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), "bay-up-"));

/** A file of so many bytes that takes no room. */
function sparse(name: string, bytes: number): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, bytes);
  return path;
}

/** What all processes of the browser have in memory of their own, in bytes. */
async function memory(page: Page): Promise<number> {
  const browser = page.context().browser();
  if (browser === null) throw new Error("this page has no browser");
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  let sum = 0;
  for (const { id } of processInfo) {
    const found = /^RssAnon:\s+(\d+) kB/m.exec(readFileSync(`/proc/${id}/status`, "utf8"));
    sum += Number(found?.[1] ?? 0) * 1024;
  }
  return sum;
}

beforeAll(async () => {
  await bay.sandboxes.create({ name: "large", wait: 60 });
});

afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  for await (const box of bay.sandboxes.list()) await box.delete();
});

test("two gigabytes are sent with progress and without memory, and a cancel leaves nothing of them", async () => {
  const box = await bay.sandboxes.get("large");
  const { page } = await signedIn();
  await goTo(page, "sandboxes/large/files");
  await page.getByRole("button", { name: "Add" }).waitFor();
  const before = await memory(page);
  await page
    .locator("input[type=file]")
    .first()
    .setInputFiles(sparse("huge.bin", 2048 * MIB));
  const list = page.getByRole("region", { name: "Uploads and downloads" });
  const bar = list.getByRole("progressbar", { name: "huge.bin" });
  const sent = async (): Promise<number> => Number(await bar.getAttribute("value"));
  await expect.poll(sent, { timeout: PATIENCE_MS }).toBeGreaterThan(16 * MIB);
  const first = await sent();
  await expect.poll(sent, { timeout: PATIENCE_MS }).toBeGreaterThan(first + 256 * MIB);
  expect((await memory(page)) - before).toBeLessThan(192 * MIB);
  await list.getByRole("button", { name: "Cancel", exact: true }).click();
  await list.getByText("cancelled").waitFor();
  await bar.waitFor({ state: "detached" });

  await page
    .locator("input[type=file]")
    .first()
    .setInputFiles(sparse("small.bin", 24 * MIB + 1));
  await list.getByText("1 of 1 done").waitFor();
  expect((await box.files.stat("small.bin")).size).toBe(24 * MIB + 1);
  expect((await box.files.list(".")).map(({ name }) => name)).toEqual(["small.bin"]);
});

/** The pictures of docs/images: each page of the console, on a Bay that has something to show. `make pictures`. */

import { createReadStream } from "node:fs";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { CELLS, makeDemo, Receivers } from "./demo";
import {
  bay,
  goTo,
  type Looks,
  PATIENCE_MS,
  picture,
  SIZES,
  signedIn,
  URL_OF_BAY,
  visitor,
  withBrowser,
} from "./world";

withBrowser();

/** What the charts need to be lines: a sample is taken every ten seconds. */
const SAMPLES = process.env["CONSOLE_SHOTS"] ? 18 : 1;
const SAMPLE_MS = 10_000;

interface Picture {
  name: string;
  /** Below `/console/`. */
  path: string;
  /** A text that is on the page when it has come. */
  shows: string | RegExp;
  /** Of the window, where its usual 800 pixels show too little. */
  height?: number;
  /** What a person does before the picture is taken. */
  first?(page: Page): Promise<void>;
}

const report = "sandboxes/sales-report";

const LIST: Picture = { name: "sandboxes", path: "sandboxes", shows: "nightly-tests" };
const OVERVIEW: Picture = { name: "overview", path: `${report}/overview`, shows: "python-default" };
const TERMINAL: Picture = { name: "terminal", path: `${report}/terminal`, shows: "shell", first: shell };
const PYTHON: Picture = {
  name: "python",
  path: `${report}/python`,
  shows: "Kernel",
  height: 1080,
  first: cells,
};
const FILES: Picture = {
  name: "files",
  path: `${report}/files?file=/workspace/report.py`,
  shows: "pivot_table",
};
const CHECKPOINTS: Picture = { name: "checkpoints", path: `${report}/checkpoints`, shows: "ready-to-send" };

const PAGES: readonly Picture[] = [
  LIST,
  {
    name: "new",
    path: "sandboxes?new=1",
    shows: "Starts from",
    first: async (page) =>
      page.getByRole("dialog").getByLabel("Name", { exact: true }).fill("sales-forecast"),
  },
  OVERVIEW,
  TERMINAL,
  { name: "execs", path: `${report}/execs`, shows: "python3 report.py", first: output },
  PYTHON,
  FILES,
  { name: "folder", path: `${report}/files`, shows: "report.py" },
  { name: "markdown", path: `${report}/files?file=/workspace/README.md`, shows: "Run it", first: preview },
  CHECKPOINTS,
  { name: "compare", path: `${report}/checkpoints`, shows: "with-chart", first: compare },
  {
    name: "ports",
    path: "sandboxes/web-shop/ports",
    shows: "8000",
    first: async (page) => {
      await page.getByRole("button", { name: "Preview" }).first().click();
      await page.frameLocator("iframe").getByText("Roasted on Tuesday").waitFor();
    },
  },
  { name: "services", path: "sandboxes/web-shop/services", shows: "mailer" },
  { name: "network", path: "sandboxes/crawler/network", shows: "tracker.example.net" },
  { name: "events", path: `${report}/events`, shows: "checkpoint" },
  { name: "images", path: "images", shows: "debian:13" },
  { name: "templates", path: "templates", shows: "toolbox" },
  { name: "webhooks", path: "webhooks", shows: "/hooks/deploy" },
  { name: "operator-host", path: "operator/host", shows: "Memory" },
  { name: "operator-pools", path: "operator/pools", shows: "python-default" },
  { name: "operator-keys", path: "operator/keys", shows: "ana's laptop" },
  { name: "operator-audit", path: "operator/audit?path=/v1/sandboxes", shows: "201" },
  { name: "operator-replicas", path: "operator/replicas", shows: "" },
  { name: "operator-settings", path: "operator/settings", shows: "driver" },
];

const receivers = new Receivers();

beforeAll(async () => {
  await receivers.begin();
  await makeDemo(createReadStream(process.env["DEMO_IMAGE"] ?? ""));
  const box = await bay.sandboxes.get("sales-report");
  await vi.waitFor(
    async () => expect((await box.metrics({ step: 10 })).points.length).toBeGreaterThanOrEqual(SAMPLES),
    { timeout: PATIENCE_MS + SAMPLES * SAMPLE_MS * 2, interval: 1000 },
  );
}, 900_000);

afterAll(async () => {
  await receivers.end();
  for await (const template of bay.templates.list()) await bay.templates.delete(template.id);
  for await (const box of bay.sandboxes.list()) await box.delete();
}, 120_000);

const LOOKS: [string, Looks, readonly Picture[]][] = [
  ["", {}, PAGES],
  ["-dark", { dark: true }, [LIST, TERMINAL, PYTHON, FILES, CHECKPOINTS]],
  ["-phone", { size: "phone" }, [LIST, OVERVIEW, FILES]],
  ["-phone-dark", { size: "phone", dark: true }, [TERMINAL, PYTHON, CHECKPOINTS]],
];
test("sign-in", async () => {
  const { page } = await visitor();
  await page.goto(URL_OF_BAY);
  await page.getByRole("heading", { level: 1 }).waitFor();
  await picture(page, "sign-in");
});

/** One person looks at all of a kind: to sign in takes longer than to look. */
test.each(LOOKS)("each page%s", async (end, looks, pages) => {
  const { page, troubles } = await signedIn(looks);
  for (const one of pages) {
    await showing(page, one, looks);
    await picture(page, `${one.name}${end}`);
    // The policy refuses the styles in the HTML of pandas, of which the page takes the text alone.
    if (one.path === PYTHON.path) troubles.found.length = 0;
  }
});

async function showing(
  page: Page,
  { name, path, shows, height, first }: Picture,
  looks: Looks,
): Promise<void> {
  const { width, height: usual } = SIZES[looks.size ?? "desktop"];
  await page.setViewportSize({ width, height: looks.size === "phone" ? usual : (height ?? usual) });
  await goTo(page, path);
  await page.getByText("Loading…").first().waitFor({ state: "detached" });
  const shown = page.locator("main, [role=dialog]").getByText(shows).first();
  await expect(shown.waitFor(), name).resolves.toBeUndefined();
  await first?.(page);
  await page.mouse.move(0, 0);
}

/** A shell with some of a day's work on its screen. */
async function shell(page: Page): Promise<void> {
  const input = page.locator(".xterm-helper-textarea:visible");
  const open = page.getByRole("button", { name: "Open a shell" });
  await input.or(open).first().waitFor();
  if (await open.isVisible()) {
    await open.click();
    await input.waitFor();
    await screenShows(page, "$");
    await input.focus();
    const lines = ["git --no-pager log --graph --oneline", "ls -l --color", "python3 report.py"];
    for (const [at, line] of lines.entries()) {
      await page.keyboard.type(`${line}\n`);
      await expect.poll(() => prompts(page), { timeout: PATIENCE_MS }).toBe(at + 2);
    }
    await screenShows(page, "2026-08-09");
  }
  await screenShows(page, "2026-08-09");
}

async function prompts(page: Page): Promise<number> {
  const text = await page.locator("section:not([hidden]) .xterm-rows").textContent();
  return (text ?? "").split("ship@sales-report").length - 1;
}

async function screenShows(page: Page, text: string): Promise<void> {
  const rows = page.locator("section:not([hidden]) .xterm-rows");
  await expect.poll(() => rows.textContent(), { timeout: PATIENCE_MS }).toContain(text);
}

/** The output of a command that runs. */
async function output(page: Page): Promise<void> {
  await page.getByText("order batch").first().click();
  await expect
    .poll(() => page.locator(".xterm-rows").textContent(), { timeout: PATIENCE_MS })
    .toContain("[5/5]");
}

async function cells(page: Page): Promise<void> {
  for (const [at, code] of CELLS.entries()) {
    await page.getByRole("textbox", { name: `Code of cell ${at + 1}` }).click();
    await page.keyboard.insertText(code);
    await page.keyboard.press("Shift+Enter");
    const shown = page.getByRole("region", { name: `Output of cell ${at + 1}` });
    await shown
      .locator("table, img")
      .first()
      .waitFor({ timeout: PATIENCE_MS * 2 });
  }
}

async function preview(page: Page): Promise<void> {
  await page.getByRole("heading", { name: "Sales report" }).waitFor();
}

/** The difference that the mistake made. */
async function compare(page: Page): Promise<void> {
  const row = page
    .getByRole("listitem")
    .filter({ has: page.getByRole("button", { name: "Acts for new-prices" }) });
  await row.getByRole("button", { name: "Compare with now" }).click();
  await page
    .getByRole("button", { name: /report.py/ })
    .first()
    .click();
  await page.getByRole("dialog").getByText("38.0").first().waitFor();
}

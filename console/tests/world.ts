/** A Chromium, a Bay that runs, and people who use the console. */

import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { Client } from "bay-sandbox";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect } from "vitest";

const given = (name: string): string => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; run tests/console/test_console_in_browser.py`);
  return value;
};

export const URL_OF_BAY = given("BAY_URL");
export const KEY = given("BAY_API_KEY");
export const bay = new Client({ baseUrl: URL_OF_BAY, apiKey: KEY });

/** Have Bay stopped, or started again where it was; answers once that is done. */
export async function control(act: "stop" | "start"): Promise<void> {
  const answer = await fetch(`${given("BAY_CONTROL")}/${act}`, { method: "POST" });
  if (!answer.ok) throw new Error(`Bay did not ${act}: ${await answer.text()}`);
}

/** So long anything may take that a person waits for, on a machine with other work. */
export const PATIENCE_MS = 30_000;

export const SIZES = { desktop: { width: 1280, height: 800 }, phone: { width: 390, height: 844 } } as const;
export type Size = keyof typeof SIZES;

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const RULES = { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] };
/** Those that another theme can break. */
const RULES_OF_COLOURS = { type: "rule", values: ["color-contrast", "link-in-text-block"] };

/** What must never happen on a page, whatever a test does. */
export interface Troubles {
  /** Errors of the console's own code, and what the page's policy refused. */
  readonly found: string[];
}

export interface Visitor {
  page: Page;
  context: BrowserContext;
  troubles: Troubles;
}

let browser: Browser;
const open: BrowserContext[] = [];
const watched: Troubles[] = [];

/** Start a browser for the tests of a file. Its pages are looked over after each test. */
export function withBrowser(): void {
  beforeAll(async () => {
    browser = await chromium.launch({
      executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
    });
  });
  afterEach(async () => {
    const found = watched.splice(0).flatMap((one) => one.found);
    await Promise.all(open.splice(0).map((context) => context.close()));
    expect(found).toEqual([]);
  });
  afterAll(() => browser.close());
}

export interface Looks {
  size?: Size;
  dark?: boolean;
  language?: "en-US" | "zh-CN";
}

/** Somebody with a browser of their own, not signed in. */
export async function visitor({
  size = "desktop",
  dark = false,
  language = "en-US",
}: Looks = {}): Promise<Visitor> {
  const context = await browser.newContext({
    viewport: SIZES[size],
    colorScheme: dark ? "dark" : "light",
    locale: language,
    hasTouch: size === "phone",
  });
  context.setDefaultTimeout(PATIENCE_MS);
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: URL_OF_BAY });
  const troubles: Troubles = { found: [] };
  const page = await context.newPage();
  watch(page, troubles);
  context.on("page", (other) => watch(other, troubles));
  open.push(context);
  watched.push(troubles);
  return { page, context, troubles };
}

function watch(page: Page, { found }: Troubles): void {
  page.on("pageerror", (error) => found.push(`${page.url()}: ${error.message}`));
  page.on("console", (message) => {
    const text = message.text();
    if (message.type() === "error" && /Content Security Policy|Refused to/.test(text)) found.push(text);
  });
}

/** The same, signed in as a person does it. */
export async function signedIn(looks: Looks = {}, key = KEY): Promise<Visitor> {
  const one = await visitor(looks);
  await one.page.goto(URL_OF_BAY);
  await signIn(one.page, key);
  return one;
}

export async function signIn(page: Page, key: string): Promise<void> {
  await page
    .getByLabel("API key", { exact: true })
    .or(page.getByLabel("API 密钥", { exact: true }))
    .fill(key);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: /^(Sandboxes|沙箱)$/ }).waitFor();
}

/** Go to a page of the console, by the console itself: nothing is loaded anew. */
export async function goTo(page: Page, path: string): Promise<void> {
  await page.goto(`${URL_OF_BAY}/console/${path}`);
  await page.locator("main h1").first().waitFor();
}

/** The page's first part is readable by all, it does not scroll sideways, and axe finds nothing. */
export async function looksRight(page: Page): Promise<void> {
  await looksRightBy(page, RULES);
}

/** The same of a page that has looked right in another theme. */
export async function coloursLookRight(page: Page): Promise<void> {
  await looksRightBy(page, RULES_OF_COLOURS);
}

async function looksRightBy(page: Page, wanted: typeof RULES): Promise<void> {
  const sideways = await page.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  );
  expect(sideways, "pixels by which the page scrolls sideways").toBeLessThanOrEqual(0);
  // By the debugger's door: the page's policy allows no script that is put into it.
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(readFileSync(AXE, "utf8"));
  const violations = await page.evaluate(async (rules) => {
    const axe = (
      globalThis as unknown as {
        axe: {
          run(
            given: unknown,
          ): Promise<{ violations: { id: string; nodes: { html: string; failureSummary?: string }[] }[] }>;
        };
      }
    ).axe;
    const { violations: found } = await axe.run({
      runOnly: rules,
      resultTypes: ["violations"],
      // Axe calls it experimental and leaves it out: it takes the branches of a tree for the name of their stem.
      ...(rules.type === "tag" && { rules: { "label-content-name-mismatch": { enabled: false } } }),
    });
    return found.map(
      (one) =>
        `${one.id}: ${one.nodes.map((node) => `${node.html} ${node.failureSummary ?? ""}`).join("\n   ")}`,
    );
  }, wanted);
  expect(violations).toEqual([]);
}

/** A picture of the page, where `CONSOLE_SHOTS` says that they go; else none. */
export async function picture(page: Page, name: string): Promise<void> {
  const folder = process.env["CONSOLE_SHOTS"];
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `${name}.png`), animations: "disabled", caret: "hide" });
}

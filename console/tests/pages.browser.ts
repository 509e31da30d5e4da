/** Every page, at both widths, in both themes and languages: axe finds nothing, and nothing is cut off. */

import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  bay,
  coloursLookRight,
  goTo,
  looksRight,
  picture,
  signedIn,
  URL_OF_BAY,
  visitor,
  withBrowser,
} from "./world";

withBrowser();

const TABS = [
  "overview",
  "terminal",
  "execs",
  "files",
  "checkpoints",
  "ports",
  "services",
  "network",
  "events",
];
const PAGES = [
  "images",
  "templates",
  "webhooks",
  "operator/host",
  "operator/pools",
  "operator/keys",
  "operator/audit",
  "operator/replicas",
  "operator/settings",
];

beforeAll(async () => {
  const demo = await bay.sandboxes.create({ name: "demo", wait: 60, labels: { team: "data", stage: "dev" } });
  await demo.services.put({ name: "web", argv: ["python3", "-m", "http.server", "8000"] });
  await demo.network.set("allowlist", [
    { action: "allow", domain: "*.example.com", ports: [443], protocol: "tcp" },
    { action: "deny", domain: "internal.example.com" },
  ]);
  await demo.run([
    "python3",
    "-c",
    "import socket\ntry: socket.getaddrinfo('refused.example.org', 443)\nexcept OSError: pass",
  ]);
  await demo.files.write("analysis.py", "import math\n\nprint(math.pi)\n");
  await demo.files.write("data/prices.csv", "day,price\nmonday,3\ntuesday,4\n");
  const first = await demo.checkpoint({ name: "first" });
  await demo.files.write("notes.md", "# Notes\n\nAll is well.\n");
  await demo.checkpoint({ name: "with-notes" });
  await demo.restore(first);
  await demo.start({ wait: 60 });
  await demo.checkpoint({ name: "another-way" });
  const frozen = await bay.sandboxes.create({ name: "web-agent", wait: 60, labels: { team: "web" } });
  await frozen.pause();
  for (const name of ["notebook", "crawler"]) await bay.sandboxes.create({ name, labels: { team: "data" } });
});

afterAll(async () => {
  for await (const box of bay.sandboxes.list()) await box.delete();
});

/** In both themes: nothing but the colours is different, and the page takes the system's at once. */
async function looksRightInBoth(page: Page, name: string): Promise<void> {
  await looksRight(page);
  await picture(page, `${name}-light`);
  await switchTo(page, "dark");
  await coloursLookRight(page);
  await picture(page, `${name}-dark`);
  await switchTo(page, "light");
}

async function switchTo(page: Page, theme: "light" | "dark"): Promise<void> {
  await page.emulateMedia({ colorScheme: theme });
  await page.locator(`html[data-theme=${theme}]`).waitFor();
  await page.evaluate(async () => {
    const fades = document.getAnimations().filter((one) => one instanceof CSSTransition);
    await Promise.allSettled(fades.map((fade) => fade.finished));
  });
}

test.each(["desktop", "phone"] as const)("the pages look right: %s", async (size) => {
  const out = await visitor({ size });
  await out.page.goto(URL_OF_BAY);
  await out.page.getByRole("heading", { level: 1 }).waitFor();
  await looksRightInBoth(out.page, `sign-in-${size}`);

  const { page } = await signedIn({ size });
  await page.getByRole("link", { name: "demo" }).waitFor();
  await looksRightInBoth(page, `sandboxes-${size}`);

  await goTo(page, "sandboxes?new=1");
  await page.getByRole("dialog").waitFor();
  await looksRightInBoth(page, `new-${size}`);

  for (const tab of TABS) {
    await goTo(page, `sandboxes/demo/${tab}`);
    await page.getByRole("status").getByText("Loading…").waitFor({ state: "detached" });
    await looksRightInBoth(page, `${tab}-${size}`);
  }
  for (const path of PAGES) {
    await goTo(page, path);
    await page.getByRole("status").getByText("Loading…").waitFor({ state: "detached" });
    await looksRightInBoth(page, `${path.replace("/", "-")}-${size}`);
  }
  for (const path of ["sandboxes/no-such-thing", "no-such-page"]) {
    await page.goto(`${URL_OF_BAY}/console/${path}`);
    await page.locator("main h2").first().waitFor();
    await looksRightInBoth(page, `${path.replace("/", "-")}-${size}`);
  }
});

test("the console speaks Chinese to a Chinese browser", async () => {
  const { page } = await signedIn({ language: "zh-CN" });
  await page.getByRole("button", { name: "新建沙箱" }).waitFor();
  expect(await page.evaluate(() => document.documentElement.lang)).toBe("zh-CN");
  await goTo(page, "sandboxes/demo/network");
  await page.getByText("策略").first().waitFor();
  await looksRight(page);
});

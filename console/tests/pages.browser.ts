/** Every page, at both widths, in both themes and languages: axe finds nothing, and nothing is cut off. */

import { afterAll, beforeAll, expect, test } from "vitest";
import {
  bay,
  goTo,
  type Looks,
  looksRight,
  picture,
  signedIn,
  URL_OF_BAY,
  visitor,
  withBrowser,
} from "./world";

withBrowser();

const LOOKS: [string, Looks][] = [
  ["desktop-light", {}],
  ["desktop-dark", { dark: true }],
  ["phone-light", { size: "phone" }],
  ["phone-dark", { size: "phone", dark: true }],
];

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

test.each(LOOKS)("the pages look right: %s", async (name, looks) => {
  const out = await visitor(looks);
  await out.page.goto(URL_OF_BAY);
  await out.page.getByRole("heading", { level: 1 }).waitFor();
  await looksRight(out.page);
  await picture(out.page, `sign-in-${name}`);

  const { page } = await signedIn(looks);
  await page.getByRole("link", { name: "demo" }).waitFor();
  await looksRight(page);
  await picture(page, `sandboxes-${name}`);

  await goTo(page, "sandboxes?new=1");
  await page.getByRole("dialog").waitFor();
  await looksRight(page);
  await picture(page, `new-${name}`);

  for (const tab of TABS) {
    await goTo(page, `sandboxes/demo/${tab}`);
    await page.getByRole("status").getByText("Loading…").waitFor({ state: "detached" });
    await looksRight(page);
    await picture(page, `${tab}-${name}`);
  }
  for (const path of PAGES) {
    await goTo(page, path);
    await page.getByRole("status").getByText("Loading…").waitFor({ state: "detached" });
    await looksRight(page);
    await picture(page, `${path.replace("/", "-")}-${name}`);
  }
  for (const path of ["sandboxes/no-such-thing", "no-such-page"]) {
    await page.goto(`${URL_OF_BAY}/console/${path}`);
    await page.locator("main h2").first().waitFor();
    await looksRight(page);
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

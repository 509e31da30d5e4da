/**
 * Measures the console in a Chromium: `measure.mjs list COUNT EVENTS RUNS` or `measure.mjs terminal SANDBOX KEYS`, with
 * BAY_URL and BAY_API_KEY. Prints one JSON object: figures by name, each an array of samples in milliseconds.
 */

import { chromium } from "playwright-core";

const url = process.env.BAY_URL;
const key = process.env.BAY_API_KEY;
const [kind, ...given] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});

/** A browser without a cache, signed in by a cookie as a person's would be. */
async function visitor() {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  await page.goto(url);
  await page.getByLabel("API key", { exact: true }).fill(key);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Sandboxes" }).waitFor();
  return { context, page };
}

async function firstPaint() {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  await page.goto(url);
  await page.getByRole("heading", { level: 1 }).waitFor();
  const [paint, bytes] = await page.evaluate(() => [
    performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0,
    performance.getEntriesByType("resource").reduce((all, one) => all + one.encodedBodySize, 0),
  ]);
  await context.close();
  return [paint, bytes];
}

/** How long the page's scripts ran since it was opened, in milliseconds. */
async function scripting(session) {
  const { metrics } = await session.send("Performance.getMetrics");
  return (metrics.find((one) => one.name === "ScriptDuration")?.value ?? 0) * 1000;
}

async function list(count, events, runs) {
  const found = { first_paint: [], loaded_bytes: [], list_shown: [], script_per_event: [] };
  for (let run = 0; run < runs; run += 1) {
    const [paint, bytes] = await firstPaint();
    found.first_paint.push(paint);
    found.loaded_bytes.push(bytes);
  }
  const { context, page } = await visitor();
  const shown = page.locator("header", { hasText: `${count} of ${count}` });
  for (let run = 0; run < runs; run += 1) {
    const began = performance.now();
    await page.reload();
    await shown.waitFor();
    found.list_shown.push(performance.now() - began);
  }
  const session = await context.newCDPSession(page);
  await session.send("Performance.enable");
  const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
  const page1 = await (await fetch(`${url}/v1/sandboxes?limit=${Math.min(200, events)}&order=newest`, { headers })).json();
  const ids = page1.items.map((one) => one.id);
  for (let run = 0; run < runs; run += 1) {
    const before = await scripting(session);
    for (let at = 0; at < events; at += 1) {
      const labels = { run: `r${run}-${at}` };
      await fetch(`${url}/v1/sandboxes/${ids[at % ids.length]}`, { method: "PATCH", headers, body: JSON.stringify({ labels }) });
    }
    await page.getByText(`run=r${run}-${events - 1}`).or(page.locator("main")).first().waitFor();
    await page.waitForFunction(() => document.readyState === "complete");
    await new Promise((resolve) => setTimeout(resolve, 1000)); // the last changes are read again and drawn
    found.script_per_event.push(((await scripting(session)) - before) / events);
  }
  return found;
}

async function terminal(sandbox, keys) {
  const { page } = await visitor();
  await page.goto(`${url}/console/sandboxes/${sandbox}/terminal`);
  await page.getByRole("button", { name: "Open a shell" }).click();
  const shown = page.locator(".xterm-rows");
  await shown.getByText("$").first().waitFor();
  await page.locator(".xterm-helper-textarea").focus();
  await page.keyboard.type("echo re''ady; exec cat\n");
  await shown.getByText("ready", { exact: true }).waitFor();
  // In the page, so that no distance between this program and the browser counts.
  const samples = await page.evaluate(async (count) => {
    const rows = document.querySelector(".xterm-rows");
    const text = document.querySelector(".xterm-helper-textarea");
    const found = [];
    for (let at = 0; at < count; at += 1) {
      const letter = String.fromCharCode(97 + (at % 26));
      const before = rows.textContent;
      const began = performance.now();
      const changed = new Promise((resolve) => {
        const seen = new MutationObserver(() => {
          if (rows.textContent === before) return;
          seen.disconnect();
          resolve(performance.now() - began);
        });
        seen.observe(rows, { childList: true, subtree: true, characterData: true });
      });
      const event = { key: letter, code: `Key${letter.toUpperCase()}`, keyCode: letter.toUpperCase().charCodeAt(0), bubbles: true };
      text.dispatchEvent(new KeyboardEvent("keydown", event));
      text.dispatchEvent(new KeyboardEvent("keypress", { ...event, charCode: letter.charCodeAt(0) }));
      found.push(await Promise.race([changed, new Promise((resolve) => setTimeout(() => resolve(Number.NaN), 5000))]));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return found;
  }, keys);
  return { keystroke: samples.filter((one) => !Number.isNaN(one)) };
}

try {
  const found = kind === "list" ? await list(...given.map(Number)) : await terminal(given[0], Number(given[1]));
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
}

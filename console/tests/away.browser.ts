/** What an open page shows when Bay, the network, the computer or a sandbox was away for a while. */

import type { Box, Event } from "bay-sandbox";
import type { Page } from "playwright-core";
import { afterEach, expect, test } from "vitest";
import { relay } from "./relay";
import { bay, control, KEY, PATIENCE_MS, signedIn, signIn, URL_OF_BAY, visitor, withBrowser } from "./world";

withBrowser();

afterEach(async () => {
  for await (const box of bay.sandboxes.list()) await box.delete();
});

/** Wait until the terminal that is looked at shows that. */
async function shows(page: Page, text: string): Promise<void> {
  const rows = page.locator("section:not([hidden]) .xterm-rows");
  await expect.poll(() => rows.textContent(), { timeout: PATIENCE_MS }).toContain(text);
}

async function typeLine(page: Page, line: string): Promise<void> {
  await page.locator(".xterm-helper-textarea:visible").focus();
  await page.keyboard.type(`${line}\n`);
}

/** The terminal of the sandbox `kept`, with a shell in it. */
async function withShell(page: Page, url = URL_OF_BAY): Promise<void> {
  await page.goto(`${url}/console/sandboxes/kept/terminal`);
  await page.getByRole("button", { name: "Open a shell" }).click();
  await typeLine(page, "echo before-$((1+1))");
  await shows(page, "before-2");
}

test("a Bay that is restarted is found again, with what happened meanwhile, and shells go on", async () => {
  await bay.sandboxes.create({ name: "kept", wait: 60 });
  const { page, context } = await signedIn();
  await withShell(page);
  const list = await context.newPage();
  await list.goto(`${URL_OF_BAY}/console/sandboxes`);
  await list.getByRole("link", { name: "kept" }).waitFor();
  await control("stop");
  for (const one of [page, list]) await one.getByText("Bay does not answer.").waitFor();
  await page.getByText("The connection to Bay broke.").waitFor();
  const says = list.getByText("Bay answers again.").waitFor(); // which it does for some seconds only
  await control("start");
  await bay.sandboxes.create({ name: "meanwhile" });
  await says;
  await list.getByRole("link", { name: "meanwhile" }).waitFor();
  await list.getByText("Bay answers again.").waitFor({ state: "detached" });
  await page.getByText("The connection to Bay broke.").waitFor({ state: "detached" });
  await typeLine(page, "echo after-$((2+2))");
  await shows(page, "after-4");
});

test("a computer that slept for an hour has the list and its shell again, though no connection broke", async () => {
  const box = await bay.sandboxes.create({ name: "kept", wait: 60 });
  await bay.sandboxes.create({ name: "goes" });
  const way = await relay();
  try {
    const { page, context } = await visitor();
    // Its clock alone goes on: timers stand still with the processor.
    await context.addInitScript(() => {
      const own = Date.now;
      const ahead = (): number => Number(localStorage.getItem("ahead") ?? 0);
      Date.now = () => own() + ahead();
    });
    await page.goto(way.url);
    await signIn(page, KEY);
    const list = await context.newPage();
    await list.goto(`${way.url}/console/sandboxes`);
    await list.getByRole("link", { name: "goes" }).waitFor();
    await withShell(page, way.url);
    await typeLine(page, "until test -e woken; do sleep 0.1; done; echo woken-$((3+3))");
    way.fallSilent();
    const lids = await Promise.all([page, list].map((one) => context.newCDPSession(one)));
    for (const lid of lids) await lid.send("Page.setWebLifecycleState", { state: "frozen" });
    await bay.sandboxes.create({ name: "came" });
    await (await bay.sandboxes.get("goes")).delete();
    await box.files.write("woken", "");
    for (const lid of lids) await lid.send("Page.setWebLifecycleState", { state: "active" });
    await page.evaluate(() => localStorage.setItem("ahead", "3600000"));
    await list.getByRole("link", { name: "came" }).waitFor();
    await list.getByRole("link", { name: "goes" }).waitFor({ state: "detached" });
    await shows(page, "woken-6"); // nobody typed anything
    await typeLine(page, "echo again-$((4+4))");
    await shows(page, "again-8");
  } finally {
    way.close();
  }
});

test("a page that was away for longer than events are kept reads all anew", async () => {
  await bay.sandboxes.create({ name: "kept" });
  const { page, context } = await signedIn();
  await page.getByRole("link", { name: "kept" }).waitFor();
  await context.setOffline(true);
  await page.evaluate(() => window.dispatchEvent(new Event("online"))); // it looks, and sees that there is none
  await page.getByText("Bay does not answer.").waitFor();
  await bay.sandboxes.create({ name: "unheard" });
  let last: Event | undefined;
  for await (const event of bay.events({ since: "0", follow: false })) last = event;
  const gap = { ...last, type: "events.gap", sandbox_id: null, data: {} };
  // As Bay answers when it has trimmed what came between.
  const body = `id: ${last?.id}\nevent: events.gap\ndata: ${JSON.stringify(gap)}\n\n`;
  await page.route(
    "**/v1/events?*since=*",
    (route) => route.fulfill({ contentType: "text/event-stream", body }),
    {
      times: 1,
    },
  );
  await context.setOffline(false);
  await page.getByRole("link", { name: "unheard" }).waitFor();
});

test("looking at the terminal of a frozen or a cold sandbox wakes neither, and its button does", async () => {
  const box = await bay.sandboxes.create({ name: "kept", wait: 60 });
  const { page } = await signedIn();
  await withShell(page);
  await box.pause();
  await page.reload();
  await page.getByRole("heading", { name: "The sandbox is frozen" }).waitFor();
  expect(await computeOf(box)).toBe("warm");
  await page.getByRole("button", { name: "Resume it and open a shell" }).click();
  await shows(page, "before-2"); // the same shell, with its screen
  await typeLine(page, "echo again-$((3+3))");
  await shows(page, "again-6");

  await box.stop();
  await page.getByText("The shell is lost, because the sandbox stopped.").waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "The sandbox is not running" }).waitFor();
  expect(await computeOf(box)).toBe("cold");
  await page.getByRole("button", { name: "Start it and open a shell" }).click();
  await typeLine(page, "echo anew-$((4+4)); exit 5");
  await page.getByText("The shell ended with exit code 5.").waitFor();
});

async function computeOf(box: Box): Promise<string> {
  return (await bay.sandboxes.get(box.id)).info.compute;
}

test("a sandbox that expires while it is looked at says so, and offers nothing that it can do no more", async () => {
  await bay.sandboxes.create({ name: "short", ttl: 5 });
  const { page } = await signedIn();
  await page.goto(`${URL_OF_BAY}/console/sandboxes/short/terminal`);
  await page.getByRole("heading", { name: "short has expired" }).waitFor();
  for (const name of [/^Start/, "Open a shell", "Fork"])
    expect(await page.getByRole("button", { name }).count()).toBe(0);
  await page.getByRole("link", { name: "Events" }).click();
  await page.getByText("expired").first().waitFor();
});

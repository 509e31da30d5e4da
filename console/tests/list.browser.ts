/** The list of sandboxes: made, found, acted on and taken back. */

import { afterEach, expect, test } from "vitest";
import { bay, goTo, signedIn, withBrowser } from "./world";

withBrowser();

afterEach(async () => {
  for await (const box of bay.sandboxes.list()) await box.delete();
});

test("a sandbox is made by the dialog and shown with its state", async () => {
  const { page } = await signedIn();
  await page.getByRole("heading", { name: "No sandbox yet" }).waitFor();
  await page.getByRole("button", { name: "New sandbox" }).first().click();
  const dialog = page.getByRole("dialog", { name: "New sandbox" });
  await dialog.getByLabel("Name").fill("Not A Name");
  await dialog.getByRole("button", { name: "Create" }).click();
  await dialog.getByRole("alert").waitFor();
  await dialog.getByLabel("Name").fill("made-here");
  await dialog.getByText("Sizes, network and labels").click();
  await dialog.getByLabel("Labels").fill("team=ml");
  await dialog.getByRole("button", { name: "Create" }).click();
  await page.getByRole("heading", { level: 1, name: "made-here" }).waitFor();
  await page.getByText("Running", { exact: true }).waitFor();
  await page.getByText("team=ml").waitFor();
  expect((await bay.sandboxes.get("made-here")).info.labels).toEqual({ team: "ml" });
});

test("changes that others make appear by themselves, also the end of a sandbox", async () => {
  const { page } = await signedIn();
  const box = await bay.sandboxes.create({ name: "elsewhere", wait: 30 });
  const row = page.getByRole("row", { name: /elsewhere/ });
  await row.getByText("Running").waitFor();
  await box.pause();
  await row.getByText("Frozen").waitFor();
  await box.stop();
  await row.getByText("Stopped").waitFor();
  await row.getByRole("link", { name: "elsewhere" }).click();
  await page.getByRole("heading", { level: 1, name: "elsewhere" }).waitFor();
  await box.delete();
  await page.getByRole("heading", { name: "elsewhere is gone" }).waitFor();
});

test("a proxy that holds the stream of events back leaves the pages usable", async () => {
  await bay.sandboxes.create({ name: "behind-it" });
  const { page } = await signedIn();
  await page.route("**/v1/events?*", () => undefined); // it is never answered
  await page.reload();
  await page.getByRole("link", { name: "behind-it" }).waitFor();
});

test("a delete can be taken back, and is sent when it is not", async () => {
  await bay.sandboxes.create({ name: "kept" });
  const { page } = await signedIn();
  const row = page.getByRole("row", { name: /kept/ });
  const remove = async (): Promise<void> => {
    await row.getByRole("button", { name: "Acts for kept" }).click();
    await page.getByRole("menuitem", { name: "Delete" }).click();
    await row.getByText("Deletes in a moment").waitFor();
  };
  await remove();
  await page.getByRole("button", { name: "Undo" }).click();
  await row.getByText("Deletes in a moment").waitFor({ state: "detached" });
  expect((await bay.sandboxes.get("kept")).name).toBe("kept");
  await remove();
  await page.getByRole("heading", { name: "No sandbox yet" }).waitFor();
  await expect(bay.sandboxes.get("kept")).rejects.toMatchObject({ code: "not_found" });
});

test.each(["desktop", "phone"] as const)("rows out of sight are not made: %s", async (size) => {
  for (let at = 0; at < 80; at += 1)
    await bay.sandboxes.create({ name: `one-of-many-${at}`, profile: "lazy" });
  const { page } = await signedIn({ size });
  await page.getByRole("link", { name: "one-of-many-79" }).waitFor();
  expect(await page.getByRole("row").count()).toBeLessThan(60);
  await page
    .getByRole("region", { name: "Sandboxes" })
    .evaluate((list) => list.scrollTo(0, list.scrollHeight));
  await page.getByRole("link", { name: "one-of-many-0", exact: true }).waitFor();
});

test("a search finds names and labels, and its address can be shared", async () => {
  await bay.sandboxes.create({ name: "web-one", labels: { team: "web" } });
  await bay.sandboxes.create({ name: "ml-one", labels: { team: "ml" } });
  const { page } = await signedIn();
  await page.getByRole("link", { name: "web-one" }).waitFor(); // else the list may still be empty
  await page.getByRole("searchbox").fill("team=ml");
  await page.getByRole("link", { name: "web-one" }).waitFor({ state: "detached" });
  expect(await page.getByRole("link", { name: "ml-one" }).count()).toBe(1);
  await page.reload();
  await page.getByRole("link", { name: "ml-one" }).waitFor();
  expect(await page.getByRole("link", { name: "web-one" }).count()).toBe(0);
});

test("the palette leads to a sandbox by the keyboard alone", async () => {
  await bay.sandboxes.create({ name: "far-away" });
  const { page } = await signedIn();
  await page.getByRole("link", { name: "far-away" }).waitFor();
  await page.keyboard.press("Control+k");
  await page.keyboard.type("far-a");
  await page.getByRole("option", { name: "far-away" }).waitFor();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "far-away" }).waitFor();
});

test("a key that may only read is shown no acts", async () => {
  await bay.sandboxes.create({ name: "looked-at" });
  const made = await bay.keys.create("reader", { scope: "read" });
  const { page } = await signedIn({}, made.secret ?? "");
  await page.getByRole("link", { name: "looked-at" }).waitFor();
  expect(await page.getByRole("button", { name: "New sandbox" }).count()).toBe(0);
  expect(await page.getByRole("button", { name: "Acts for looked-at" }).count()).toBe(0);
  await goTo(page, "sandboxes/looked-at");
  expect(await page.getByRole("button", { name: "Delete" }).count()).toBe(0);
});

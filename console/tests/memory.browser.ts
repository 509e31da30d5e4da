/** What runs: put to disk and brought back, kept in checkpoints, and gone on with in copies. */

import type { Box } from "bay-sandbox";
import { afterEach, expect, test } from "vitest";
import { bay, goTo, looksRight, picture, signedIn, withBrowser } from "./world";

withBrowser();

afterEach(async () => {
  for await (const box of bay.sandboxes.list()) await box.delete();
});

/** Python that traces a process, which no memory can be saved with. */
const TRACED = `
import ctypes, subprocess
child = subprocess.Popen(["sleep", "600"])
assert ctypes.CDLL(None).ptrace(0x4206, child.pid, 0, 0) == 0
`;

/** A sandbox whose Python kernel remembers a number. */
async function remembering(name: string): Promise<Box> {
  const box = await bay.sandboxes.create({ name, wait: 60 });
  await box.python.run("number = 41");
  return box;
}

async function recalled(box: Box): Promise<string> {
  return (await box.python.run("print(number + 1)")).stdout.trim();
}

test("a sandbox hibernates and wakes by its page, and by the list", async () => {
  const box = await remembering("sleeper");
  const { page } = await signedIn();
  await goTo(page, "sandboxes/sleeper");
  await page.getByText("Hibernates when frozen for").waitFor();
  await page.getByRole("button", { name: "Hibernate" }).click();
  await page.getByText("Hibernated", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Wake" }).click();
  await page.getByText("Running", { exact: true }).waitFor();
  await goTo(page, "sandboxes");
  await page.getByRole("button", { name: "Acts for sleeper" }).click();
  await page.getByRole("menuitem", { name: "Hibernate" }).click();
  const row = page.getByRole("row").filter({ has: page.getByRole("link", { name: "sleeper" }) });
  await row.getByText("Hibernated", { exact: true }).waitFor();
  expect(await recalled(box)).toBe("42");
  const { page: phone } = await signedIn({ size: "phone" });
  await goTo(phone, "sandboxes/sleeper");
  await phone.getByRole("button", { name: "Hibernate" }).waitFor();
  await looksRight(phone);
  await picture(phone, "sleeper-phone");
});

test("a checkpoint with memory is made, restored and forked, and each goes on", async () => {
  const box = await remembering("thinker");
  const { page } = await signedIn();
  await goTo(page, "sandboxes/thinker/checkpoints");
  await page.getByRole("button", { name: "New checkpoint" }).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill("loaded");
  await dialog.getByLabel(/^With its memory/).check();
  await looksRight(page);
  await picture(page, "checkpoint-memory");
  await dialog.getByRole("button", { name: "Make it" }).click();
  const row = page
    .getByRole("listitem")
    .filter({ has: page.getByRole("button", { name: "Acts for loaded" }) });
  await row.getByText(/ of memory$/).waitFor();
  expect((await box.getCheckpoint("loaded")).kind).toBe("memory");

  await box.python.run("number = 0");
  await row.getByRole("button", { name: "Restore" }).click();
  await dialog.getByLabel(/checkpoint of the present files first/).uncheck();
  expect(await dialog.getByLabel("Programs go on from its memory").isChecked()).toBe(true);
  await dialog.getByRole("button", { name: "Restore" }).click();
  await page.getByText("loaded goes on, with its files and programs").waitFor();
  expect(await recalled(box)).toBe("42");

  await row.getByRole("button", { name: "Acts for loaded" }).click();
  await page.getByRole("menuitem", { name: "Fork …" }).click();
  await dialog.getByLabel("Name").fill("copy");
  expect(await dialog.getByLabel(/^With its memory/).isChecked()).toBe(true);
  await dialog.getByRole("button", { name: "Fork" }).click();
  await page.getByRole("link", { name: "copy" }).waitFor();
  expect(await recalled(await bay.sandboxes.get("copy"))).toBe("42");
  await dialog.getByRole("button", { name: "Close" }).last().click();

  await row.getByRole("button", { name: "Restore" }).click();
  await dialog.getByLabel(/checkpoint of the present files first/).uncheck();
  await dialog.getByLabel("Programs go on from its memory").uncheck();
  await dialog.getByRole("button", { name: "Restore" }).click();
  await page.getByText("The files are those of loaded again").waitFor();
  expect((await box.python.run("number")).traceback).toContain("NameError");
});

test("copies of what runs now are made by the page of the sandbox", async () => {
  await remembering("origin");
  const { page } = await signedIn();
  await goTo(page, "sandboxes/origin");
  await page.getByRole("button", { name: "Fork" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("How many").fill("2");
  await dialog.getByLabel("Name").fill("try");
  await dialog.getByLabel(/^With its memory/).check();
  await dialog.getByRole("button", { name: "Fork" }).click();
  await page.getByRole("link", { name: "try-2" }).waitFor();
  for (const name of ["origin", "try-1", "try-2"]) {
    expect(await recalled(await bay.sandboxes.get(name))).toBe("42");
  }
});

test("automatic checkpoints can have memory", async () => {
  const box = await bay.sandboxes.create({ name: "demo" });
  const { page } = await signedIn();
  await goTo(page, "sandboxes/demo/checkpoints");
  await page.getByRole("button", { name: "Change" }).click();
  await page.getByLabel("How often").selectOption("900");
  await page.getByLabel(/^With the memory/).check();
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("They have its memory too, where it can be saved.").waitFor();
  expect((await bay.sandboxes.get(box.id)).info.checkpoint_policy).toMatchObject({
    every: 900,
    memory: true,
  });
});

test("what cannot be saved is told, with the reason", async () => {
  const box = await remembering("traced");
  await box.python.run(TRACED);
  const { page } = await signedIn();
  await goTo(page, "sandboxes/traced");
  await page.getByRole("button", { name: "Hibernate" }).click();
  await page.getByText(/cannot be saved/).waitFor();
  await page.getByText("Frozen", { exact: true }).waitFor();
});

test("a profile that does not hibernate is offered no memory", async () => {
  await bay.sandboxes.create({ name: "plain", profile: "plain", wait: 60 });
  const { page } = await signedIn();
  await goTo(page, "sandboxes/plain");
  await page.getByText("Stops when frozen for").waitFor();
  await page.getByRole("button", { name: "Fork" }).click();
  await page.getByRole("dialog").getByLabel("How many").waitFor();
  expect(await page.getByLabel(/memory/i).count()).toBe(0);
  await page.getByRole("button", { name: "Cancel" }).click();
  expect(await page.getByRole("button", { name: "Hibernate" }).count()).toBe(0);
  await goTo(page, "sandboxes/plain/checkpoints");
  await page.getByRole("button", { name: "New checkpoint" }).first().click();
  await page.getByRole("dialog").getByLabel("Comment").waitFor();
  expect(await page.getByLabel(/memory/i).count()).toBe(0);
});

/** Checkpoints: made, compared, restored, forked and removed. */

import { afterEach, expect, test } from "vitest";
import { bay, goTo, looksRight, picture, type Size, signedIn, withBrowser } from "./world";

withBrowser();

afterEach(async () => {
  for await (const box of bay.sandboxes.list()) await box.delete();
});

test("a checkpoint is made, its differences are looked at, and it is restored and forked", async () => {
  const box = await bay.sandboxes.create({ name: "demo", wait: 30 });
  await box.files.write("main.py", 'print("hello")\n');
  const { page } = await signedIn();
  await goTo(page, "sandboxes/demo/checkpoints");
  await page.getByRole("button", { name: "New checkpoint" }).first().click();
  await page.getByRole("dialog").getByLabel("Name").fill("good");
  await page.getByRole("button", { name: "Make it" }).click();
  const row = page.getByRole("listitem").filter({ has: page.getByRole("button", { name: "Acts for good" }) });
  await row.waitFor();

  await box.files.write("main.py", 'print("broken")\n');
  await row.getByRole("button", { name: "Compare with now" }).click();
  await page.getByRole("button", { name: /main.py/ }).click();
  const dialog = page.getByRole("dialog", { name: "/workspace/main.py" });
  await dialog.getByText("broken").waitFor();
  await dialog.getByText("hello").waitFor();
  await dialog.getByRole("button", { name: "Close" }).click();

  await row.getByRole("button", { name: "Restore" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Restore" }).click();
  await page.getByText("The files are those of good again").waitFor();
  expect(await box.files.readText("main.py")).toBe('print("hello")\n');
  expect(await box.checkpoints()).toHaveLength(2); // the one that was made before the restore

  await row.getByRole("button", { name: "Acts for good" }).click();
  await page.getByRole("menuitem", { name: "Fork …" }).click();
  await page.getByLabel("How many").fill("2");
  await page.getByRole("dialog").getByLabel("Name").fill("copy");
  await page.getByRole("dialog").getByRole("button", { name: "Fork" }).click();
  await page.getByRole("link", { name: "copy-2" }).waitFor();
  await page.getByRole("dialog").getByRole("button", { name: "Close" }).last().click();

  await row.getByRole("button", { name: "Acts for good" }).click();
  await page.getByRole("menuitem", { name: "Delete …" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await row.waitFor({ state: "detached" });
  await expect.poll(async () => (await box.checkpoints()).length).toBe(1);
});

test("the policy is shown and changed", async () => {
  const box = await bay.sandboxes.create({ name: "demo" });
  const { page } = await signedIn();
  await goTo(page, "sandboxes/demo/checkpoints");
  await page.getByText("Bay makes none by itself.").waitFor();
  await page.getByRole("button", { name: "Change" }).click();
  await page.getByLabel("How often").selectOption("900");
  await page.getByLabel("How many to keep").fill("3");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText(/^Every 15 min/).waitFor();
  const { checkpoint_policy: policy } = (await bay.sandboxes.get(box.id)).info;
  expect(policy).toEqual({ every: 900, keep_last: 3, before_stop: false, memory: false });
});

test("a change of the policy leaves its memory as it is", async () => {
  const policy = { every: 900, keep_last: 10, before_stop: false, memory: true };
  const box = await bay.sandboxes.create({ name: "demo", checkpointPolicy: policy });
  const { page } = await signedIn();
  await goTo(page, "sandboxes/demo/checkpoints");
  await page.getByText(/^Every 15 min/).waitFor();
  await page.getByRole("button", { name: "Change" }).click();
  await page.getByLabel("How many to keep").fill("3");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText(/newest 3 are kept/).waitFor();
  expect((await bay.sandboxes.get(box.id)).info.checkpoint_policy).toEqual({ ...policy, keep_last: 3 });
});

for (const [size, dark] of [
  ["desktop", true],
  ["phone", false],
] as [Size, boolean][]) {
  test(`the timeline is for all, on a ${size}`, async () => {
    const box = await bay.sandboxes.create({ name: "demo", wait: 30 });
    await box.files.write("a", "1");
    const first = await box.checkpoint({ name: "first", comment: "all tests pass" });
    await box.files.write("a", "12");
    const second = await box.checkpoint({ name: "second" });
    await box.restore(first);
    await box.checkpoint({ name: "other-way" });
    const { page } = await signedIn({ size, dark });
    await goTo(page, `sandboxes/demo/checkpoints?from=${second.id}`);
    await page.getByText("other-way").first().waitFor();
    await page.getByText("/workspace/a").waitFor();
    await looksRight(page);
    await picture(page, `checkpoints-${size}`);
  });
}

/** Terminals, commands and Python, as a person uses them. */

import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bay, goTo, looksRight, PATIENCE_MS, picture, signedIn, withBrowser } from "./world";

withBrowser();

beforeAll(async () => {
  await bay.sandboxes.create({ name: "shells", wait: 60 });
});

afterAll(async () => {
  for await (const box of bay.sandboxes.list()) await box.delete();
});

/** Wait until the terminal that is looked at shows that. */
async function shows(page: Page, text: string): Promise<void> {
  const rows = page.locator("section:not([hidden]) .xterm-rows");
  await expect.poll(() => rows.textContent(), { timeout: PATIENCE_MS }).toContain(text);
}

test("a shell is found again after a reload, with its screen, and says its exit code", async () => {
  const { page } = await signedIn({ dark: true });
  await goTo(page, "sandboxes/shells/terminal");
  await page.getByRole("button", { name: "Open a shell" }).click();
  await shows(page, "$");
  await page.keyboard.type("echo mark-$((40+2)); printf '\\e[38;2;255;100;0mcoloured\\e[0m\\n'\n");
  await shows(page, "mark-42");
  await shows(page, "coloured");
  const span = page.locator(".xterm-rows span", { hasText: /^coloured$/ });
  expect(await span.evaluate((one) => getComputedStyle(one).color)).toBe("rgb(255, 100, 0)");
  await looksRight(page);
  await picture(page, "terminal");
  await page.reload();
  await shows(page, "mark-42");
  await page.keyboard.type("exit 7\n");
  await page.getByText("The shell ended with exit code 7.").waitFor();
});

test("a command's output is followed live, and its exit code is shown", async () => {
  const { page } = await signedIn();
  await goTo(page, "sandboxes/shells/execs");
  await page.getByRole("button", { name: "Run a command" }).first().click();
  await page.getByLabel("Command line").fill("read line; echo got-$line; exit 3");
  await page.getByLabel("Keep its input open").check();
  await page.getByRole("dialog").getByRole("button", { name: "Run", exact: true }).click();
  await page.getByPlaceholder("A line for its stdin").fill("this");
  await page.getByRole("button", { name: "Send", exact: true }).click();
  await expect
    .poll(() => page.locator(".xterm-rows").textContent(), { timeout: PATIENCE_MS })
    .toContain("got-this");
  await page.getByText("Ended · code 3").first().waitFor();
  await looksRight(page);
  await picture(page, "commands");
});

test("a cell that runs while the page is loaded anew is followed to its end, and its markup is inert", async () => {
  const { page } = await signedIn();
  await goTo(page, "sandboxes/shells/python");
  await page.getByRole("textbox", { name: "Code of cell 1" }).click();
  await page.keyboard.insertText(
    [
      "import os, time",
      "class Table:",
      "    def _repr_html_(self):",
      "        return '<table><tr><td>cell-text<script>document.title = 1</script></td></tr></table>'",
      "print('begun', flush=True)",
      "while not os.path.exists('go'): time.sleep(0.05)",
      "Table()",
    ].join("\n"),
  );
  await page.keyboard.press("Shift+Enter");
  const output = page.getByRole("region", { name: "Output of cell 1" });
  await output.getByText("begun").waitFor();
  await page.reload();
  await output.getByText("begun").waitFor();
  await (await bay.sandboxes.get("shells")).run("touch go");
  await output.getByRole("cell", { name: "cell-text" }).waitFor();
  await page.getByText("done").first().waitFor();
  expect(await output.locator("script").count()).toBe(0);
  await looksRight(page);
  await picture(page, "python");
});

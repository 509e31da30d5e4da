/** The files of a sandbox: followed, changed, guarded, sent, found and taken back; and nothing of them runs. */

import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Box } from "bay-sandbox";
import type { Page } from "playwright-core";
import { afterEach, expect, test } from "vitest";
import { bay, goTo, looksRight, picture, type Size, signedIn, withBrowser } from "./world";

withBrowser();

afterEach(async () => {
  for await (const box of bay.sandboxes.list()) await box.delete();
});

const WEIRD = [
  "<img src=x onerror=alert(1)>.txt",
  "two\nlines.txt",
  "gpj.\u202egnp.exe",
  "日本語 🙂.txt",
  "n".repeat(250),
];

async function filled(): Promise<Box> {
  const box = await bay.sandboxes.create({ name: "demo", wait: 30 });
  await box.files.write("src/app/main.py", 'def main() -> None:\n    print("hello")\n');
  await box.files.write(
    "README.md",
    "# Demo\n\n<script>document.title = 'pwned'</script>\n\n[x](javascript:alert(1))\n",
  );
  await box.files.write("data/cities.csv", 'city,people\n"A, B",12\n<b>c</b>,3\n');
  await box.files.write("page.html", "<h1>Hello</h1><script>parent.document.title = 'pwned'</script>");
  await box.files.write(
    "logo.svg",
    '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="40"><rect width="60" height="40" fill="#0e7490"/></svg>',
  );
  await box.files.write("blob.bin", new Uint8Array([1, 0, 2]));
  return box;
}

async function opened(page: Page, query = ""): Promise<void> {
  await goTo(page, `sandboxes/demo/files${query}`);
}

test("a file of the sandbox appears, is edited, and a newer version is not overwritten", async () => {
  const box = await filled();
  const { page } = await signedIn();
  await opened(page);
  await page.getByRole("img", { name: "Changes in the sandbox appear by themselves" }).waitFor();
  await box.files.write("made-elsewhere.txt", "one");
  await page.getByRole("button", { name: /^made-elsewhere.txt/ }).click();
  const editor = page.getByRole("textbox", { name: "Text of made-elsewhere.txt" });
  await editor.click();
  await page.keyboard.press("Control+End");
  await page.keyboard.type(" two");
  await page.getByText("Not saved yet").waitFor();
  await page.keyboard.press("Control+s");
  await page.getByText("Not saved yet").waitFor({ state: "detached" });
  expect(await box.files.readText("made-elsewhere.txt")).toBe("one two");

  await page.keyboard.type(" three");
  await page.getByText("Not saved yet").waitFor();
  await box.files.write("made-elsewhere.txt", "theirs");
  await page.keyboard.press("Control+s");
  await page.getByRole("dialog", { name: "Someone else has changed this file" }).waitFor();
  expect(await box.files.readText("made-elsewhere.txt")).toBe("theirs");
  await page.getByRole("button", { name: "Write mine over it" }).click();
  await page.getByText("Not saved yet").waitFor({ state: "detached" });
  expect(await box.files.readText("made-elsewhere.txt")).toBe("one two three");

  await editor.click();
  await page.keyboard.type("lost");
  await page.getByRole("button", { name: "Close the file" }).click();
  await page.getByRole("button", { name: "Lose them" }).click();
  await page.getByRole("table").waitFor();
  expect(await box.files.readText("made-elsewhere.txt")).toBe("one two three");
});

test("a folder is uploaded, what is there is asked about, and a delete is taken back", async () => {
  const box = await filled();
  const folder = join(mkdtempSync(join(tmpdir(), "bay-up-")), "up");
  mkdirSync(join(folder, "sub"), { recursive: true });
  writeFileSync(join(folder, "one.txt"), "1");
  writeFileSync(join(folder, "sub", "two.txt"), "2");
  const { page } = await signedIn();
  await opened(page);
  const fields = page.locator("input[type=file]");
  await page.getByRole("button", { name: "Add" }).waitFor();
  await fields.nth(1).setInputFiles(folder);
  await page.getByText("2 of 2 done").waitFor();
  expect(await box.files.readText("up/sub/two.txt")).toBe("2");
  await box.files.write("up/one.txt", "changed");
  await fields.nth(1).setInputFiles(folder);
  await page.getByRole("dialog", { name: "Some files are there already" }).waitFor();
  await page.getByRole("button", { name: "Leave those out" }).click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  expect(await box.files.readText("up/one.txt")).toBe("changed");

  const row = page.getByRole("row", { name: /blob.bin/ });
  const remove = async (): Promise<void> => {
    await row.getByRole("button", { name: "Acts for blob.bin" }).click();
    await page.getByRole("menuitem", { name: "Delete" }).click();
  };
  await remove();
  await page.getByRole("button", { name: "Undo" }).click();
  expect(await box.files.exists("blob.bin")).toBe(true);
  await remove();
  await row.waitFor({ state: "detached" });
  expect(await box.files.exists("blob.bin")).toBe(false);
});

test("nothing of a file runs, and names of all kinds are shown and opened", async () => {
  const box = await filled();
  for (const name of WEIRD) await box.files.write(`weird/${name}`, "inside");
  const { page } = await signedIn();
  page.on("dialog", (dialog) => {
    throw new Error(`a file opened a dialog: ${dialog.message()}`);
  });
  await opened(page, "?file=/workspace/README.md");
  await page.getByRole("heading", { name: "Demo" }).waitFor();
  await page.getByText("document.title = 'pwned'").waitFor();
  expect(await page.locator("main a[href^=javascript]").count()).toBe(0);
  await opened(page, "?file=/workspace/data/cities.csv");
  await page.getByRole("cell", { name: "<b>c</b>" }).waitFor();
  await opened(page, "?file=/workspace/page.html");
  await page.getByRole("button", { name: "Preview" }).click();
  await page.frameLocator("iframe").getByRole("heading", { name: "Hello" }).waitFor();
  await opened(page, "?file=/workspace/logo.svg");
  await page.getByText("60 × 40").waitFor();
  expect(await page.title()).not.toBe("pwned");
  await opened(page, "?at=/workspace/weird");
  for (const shown of [/^<img src=x/, /two\\nlines/, /gpj.U\+202Egnp.exe/, /日本語/, /nnnn/]) {
    await page.getByRole("button", { name: shown }).first().click();
    await page.getByText("inside").waitFor();
    await page.getByRole("button", { name: "Close the file" }).click();
    await page.getByRole("table").waitFor();
  }
});

test("a line is found by its text, and the tree is used by keyboard", async () => {
  await filled();
  const { page } = await signedIn();
  await opened(page);
  await page.getByRole("treeitem", { name: "src" }).waitFor();
  await page.getByRole("treeitem", { name: "/workspace" }).focus();
  await page.keyboard.press("s");
  await page.keyboard.press("ArrowRight");
  await page.getByRole("treeitem", { name: "app" }).waitFor();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: /^main.py/ }).waitFor();
  await opened(page);
  await page.getByRole("button", { name: /^Search in/ }).click();
  await page.getByLabel("Text or name to find").fill("HELLO");
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await page.getByRole("button", { name: /main.py.*line 2/ }).click();
  await page.getByRole("textbox", { name: "Text of main.py" }).waitFor();
});

test("looking wakes nothing", async () => {
  const box = await filled();
  const { page } = await signedIn();
  // A look that is under way when the sandbox is stopped would start it again: stop it between two.
  let last = Date.now();
  page.on("request", (request) => {
    if (request.url().includes("/files")) last = Date.now();
  });
  await opened(page);
  await page.getByRole("button", { name: /^page.html/ }).waitFor();
  await expect.poll(() => Date.now() - last, { timeout: 30_000 }).toBeGreaterThan(3_000);
  await box.stop();
  await page.getByText("The sandbox does not run now").waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "This sandbox does not run" }).waitFor();
  expect((await bay.sandboxes.get(box.id)).info.compute).toBe("cold");
});

for (const [size, dark] of [
  ["desktop", false],
  ["phone", true],
] as [Size, boolean][]) {
  test(`the files are for all, on a ${size}`, async () => {
    await filled();
    const { page } = await signedIn({ size, dark });
    await opened(page);
    await page.getByRole("button", { name: /^page.html/ }).waitFor();
    await looksRight(page);
    await picture(page, `files-${size}`);
    await opened(page, "?file=/workspace/src/app/main.py");
    await page.getByRole("textbox", { name: "Text of main.py" }).waitFor();
    await looksRight(page);
    await picture(page, `editor-${size}`);
    await opened(page, "?file=/workspace/data/cities.csv");
    await page.getByRole("cell", { name: "A, B" }).waitFor();
    await looksRight(page);
  });
}

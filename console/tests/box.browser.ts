/** A day's work in one sandbox: a shell, files, a checkpoint, a mistake, the way back, a fork, an app, a policy. */

import type { Box } from "bay-sandbox";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bay, goTo, signedIn, withBrowser } from "./world";

withBrowser();

let box: Box;

beforeAll(async () => {
  box = await bay.sandboxes.create({ name: "work", wait: 60 });
});

afterAll(async () => {
  for await (const one of bay.sandboxes.list()) await one.delete();
});

/** Type a line into the terminal that has the keyboard. */
async function typeLine(page: Page, line: string): Promise<void> {
  await page.locator(".xterm-helper-textarea:visible").focus();
  await page.keyboard.type(`${line}\n`);
}

function screen(page: Page, text: string | RegExp): ReturnType<Page["locator"]> {
  return page.locator(".xterm-rows:visible", { hasText: text });
}

test("a shell does what is typed, and is found again after a reload, with its screen", async () => {
  const { page } = await signedIn();
  await goTo(page, "sandboxes/work/terminal");
  await page.getByRole("button", { name: "Open a shell" }).click();
  await page.locator(".xterm-helper-textarea:visible").waitFor();
  await typeLine(page, "echo answer=$((6*7)) | tee answer.txt");
  await screen(page, "answer=42").waitFor();
  await page.reload();
  await screen(page, "answer=42").waitFor();
  await typeLine(page, "echo again=$((40+3))");
  await screen(page, "again=43").waitFor();
  expect(await box.files.readText("answer.txt")).toBe("answer=42\n");
});

test("output that tries to set the title, the clipboard or the page changes none of them", async () => {
  const { page } = await signedIn();
  await goTo(page, "sandboxes/work/terminal");
  await page.locator(".xterm-helper-textarea:visible").waitFor();
  const title = await page.title();
  await page.evaluate(() => navigator.clipboard.writeText("mine"));
  await typeLine(
    page,
    String.raw`printf '\033]0;evil\007\033]52;c;ZXZpbA==\007<img src=x onerror=alert(1)>done\n'`,
  );
  await screen(page, "onerror=alert(1)>done").waitFor();
  expect(await page.title()).toBe(title);
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe("mine");
  expect(await page.locator('img[src="x"]').count()).toBe(0);
});

test("a flood of output leaves the page usable, and its end is shown", async () => {
  const { page } = await signedIn();
  await goTo(page, "sandboxes/work/terminal");
  await page.locator(".xterm-helper-textarea:visible").waitFor();
  await typeLine(page, "head -c 100000000 /dev/zero | tr '\\0' 'x' | fold -w 79; echo flood-is-over");
  await screen(page, "xxxxxxxx").first().waitFor();
  await page.getByRole("link", { name: "Overview" }).click();
  await page.getByText("About it").waitFor();
  await page.getByRole("link", { name: "Terminal" }).click();
  await screen(page, "flood-is-over").waitFor({ timeout: 90_000 });
});

test("a file is edited and saved, and a change of somebody else is not lost by that", async () => {
  await box.files.write("story.txt", "once\n");
  const { page } = await signedIn();
  await goTo(page, "sandboxes/work/files");
  await page
    .getByRole("link", { name: "story.txt" })
    .or(page.getByRole("button", { name: "story.txt", exact: true }))
    .first()
    .click();
  const editor = page.locator(".cm-content");
  await editor.waitFor();
  await editor.click();
  await page.keyboard.press("Control+End");
  await page.keyboard.type("upon a time");
  await page.keyboard.press("Control+s");
  await expect.poll(() => box.files.readText("story.txt")).toBe("once\nupon a time");
  await page.keyboard.type(" there was");
  await box.files.write("story.txt", "theirs\n");
  await page.keyboard.press("Control+s");
  await page
    .getByText(/Someone else has changed this file|The file has changed in the sandbox/)
    .first()
    .waitFor();
  expect(await box.files.readText("story.txt")).toBe("theirs\n");
});

test("names of files are text, whatever is in them", async () => {
  const names = [
    "<img src=x onerror=alert(1)>.txt",
    "日本語のファイル.txt",
    "line\nbreak.txt",
    "עברית.txt",
    `${"long".repeat(60)}.txt`,
  ];
  for (const name of names) await box.files.write(name, "x");
  const { page } = await signedIn();
  await goTo(page, "sandboxes/work/files");
  await page.getByText("<img src=x onerror=alert(1)>.txt").first().waitFor();
  await page.getByText("日本語のファイル.txt").first().waitFor();
  expect(await page.locator('img[src="x"]').count()).toBe(0);
  const sideways = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  expect(sideways).toBeLessThanOrEqual(0);
  for (const name of names) await box.files.delete(name);
});

test("a mistake is undone by a checkpoint, and a fork begins with its files", async () => {
  await box.files.write("precious.txt", "all of it\n");
  const { page } = await signedIn();
  await goTo(page, "sandboxes/work/checkpoints");
  await page.getByRole("button", { name: "New checkpoint" }).first().click();
  await page.getByRole("dialog").getByLabel("Name").fill("before-it");
  await page.getByRole("dialog").getByRole("button", { name: "Make it" }).click();
  await page.getByRole("button", { name: "Acts for before-it" }).waitFor();
  await box.files.delete("precious.txt");
  await page.getByRole("button", { name: "Acts for before-it" }).click();
  await page.getByRole("menuitem", { name: "Restore …" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Restore", exact: true }).click();
  await page.getByText("The files are those of before-it again").waitFor();
  expect(await box.files.readText("precious.txt")).toBe("all of it\n");
  await page.getByRole("button", { name: "Acts for before-it" }).click();
  await page.getByRole("menuitem", { name: "Fork …" }).click();
  await page.getByRole("dialog").getByLabel("Name").fill("work-copy");
  await page.getByRole("dialog").getByRole("button", { name: "Fork", exact: true }).click();
  await page.getByText("work-copy").first().waitFor();
  await expect
    .poll(async () => (await bay.sandboxes.get("work-copy")).files.readText("precious.txt"))
    .toBe("all of it\n");
});

test("an app in the sandbox is previewed in the page, and has nothing of the page", async () => {
  const app = `
import http.server
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/": # as of most apps that have a page to sign in
            self.send_response(302); self.send_header("Location", "/home"); self.end_headers(); return
        self.send_response(200); self.send_header("Content-Type", "text/html"); self.end_headers()
        self.wfile.write(b"<title>app</title><p id=seen>cookies: " + self.headers.get("Cookie", "none").encode() + b"</p>")
    def log_message(self, *_): pass
http.server.HTTPServer(("0.0.0.0", 8000), App).serve_forever()`;
  await box.files.write("app.py", app);
  await box.services.put({ name: "app", argv: ["python3", "app.py"] }, { wait: 60 });
  await box.waitFor(8000);
  const { page } = await signedIn();
  await goTo(page, "sandboxes/work/ports");
  await page.getByRole("button", { name: "Preview" }).first().click();
  const frame = page.frameLocator("iframe");
  await frame.locator("#seen").waitFor();
  expect(await frame.locator("#seen").textContent()).toBe("cookies: none");
  const reached = await page.frames()[1]?.evaluate(() => {
    try {
      return String(parent.document.title);
    } catch (error) {
      return (error as Error).name;
    }
  });
  expect(reached).toBe("SecurityError");
});

test("a preview of a port where no app answers says so, and shows the app once one does", async () => {
  const hangUp = `
import socket
listener = socket.create_server(("0.0.0.0", 8001))
while True: listener.accept()[0].close()`;
  await box.services.put({ name: "late", argv: ["python3", "-c", hangUp] }, { wait: 60 });
  await box.waitFor(8001);
  const { page } = await signedIn();
  await goTo(page, "sandboxes/work/ports");
  const row = page.getByRole("listitem").filter({ hasText: "8001" });
  await row.getByRole("button", { name: "Preview" }).click();
  await page.getByRole("alert").filter({ hasText: "8001" }).waitFor();
  expect(await page.locator("iframe").count()).toBe(0);
  await box.services.put({ name: "late", argv: ["python3", "-m", "http.server", "8001"] }, { wait: 60 });
  await box.waitFor(8001);
  await page.getByRole("button", { name: "Try again" }).click();
  await page
    .frameLocator("iframe")
    .getByRole("heading", { name: /Directory listing/ })
    .waitFor();
});

test("a policy that is changed refuses a name at once, and the name appears", async () => {
  const { page } = await signedIn();
  await goTo(page, "sandboxes/work/network");
  await page.getByLabel("Reaches").selectOption("allowlist");
  await page.getByRole("button", { name: "Add a rule" }).click();
  await page.getByLabel("Name or network").fill("*.example.com");
  await page.getByRole("button", { name: "Apply the policy" }).click();
  await page.getByText("The policy holds from now on").waitFor();
  expect((await box.network.get()).mode).toBe("allowlist");
  await box.run([
    "python3",
    "-c",
    "import socket\ntry: socket.getaddrinfo('tracker.example.org', 443)\nexcept OSError: pass",
  ]);
  await page.getByText("tracker.example.org").first().waitFor();
});

/** Somebody whose key may only read: every page shows what it has or says why it cannot, and nothing is refused. */

import { afterAll, beforeAll, expect, test } from "vitest";
import { bay, goTo, looksRight, type Size, signedIn, withBrowser } from "./world";

withBrowser();

/** What each tab shows of the sandbox, or says. */
const TABS = {
  overview: "python-default",
  terminal: "your key may only read",
  execs: "echo seen-by-readers",
  python: "Your key may only read",
  files: "seen.txt",
  checkpoints: "first",
  ports: "Listening ports",
  services: "web",
  network: "Policy",
  events: "Checkpoint",
};
const PAGES = ["sandboxes", "images", "templates", "webhooks"];
/** The names of acts: no button or menu of these is shown to a reader. */
const ACTS =
  /^(new |add|create|delete|remove|start|stop|pause|freeze|thaw|hibernate|wake|resume|fork|restore|restart|run|save|apply|change|rename|upload|pull|build|revoke|make|keep|open a shell)/i;

beforeAll(async () => {
  const box = await bay.sandboxes.create({ name: "seen", wait: 60 });
  await box.files.write("seen.txt", "text of the file");
  await box.run("echo seen-by-readers");
  await box.services.put({ name: "web", argv: ["python3", "-m", "http.server", "8000"] });
  await box.waitFor(8000);
  await box.checkpoint({ name: "first" });
});

afterAll(async () => {
  for await (const box of bay.sandboxes.list()) await box.delete();
});

test.each(["desktop", "phone"] as Size[])(
  "a key that may only read sees all, and may nothing: %s",
  async (size) => {
    const made = await bay.keys.create(`reader-${size}`, { scope: "read" });
    const { page } = await signedIn({ size }, made.secret ?? "");
    const refused: string[] = [];
    page.on("response", (answer) => {
      if ([401, 403].includes(answer.status()) || answer.status() >= 500)
        refused.push(`${answer.status()} ${answer.request().method()} ${answer.url()}`);
    });
    const offered: string[] = [];
    const look = async (where: string): Promise<void> => {
      await page.getByRole("status").getByText("Loading…").waitFor({ state: "detached" });
      for (const button of await page.locator("main button:visible:enabled").all()) {
        const name = (await button.getAttribute("aria-label")) ?? (await button.textContent()) ?? "";
        if (ACTS.test(name.trim())) offered.push(`${where}: ${name}`);
      }
      await looksRight(page);
    };
    for (const [tab, text] of Object.entries(TABS)) {
      await goTo(page, `sandboxes/seen/${tab}`);
      await page.locator("main").getByText(text).first().waitFor();
      await look(tab);
    }
    await goTo(page, "sandboxes/seen/files?file=/workspace/seen.txt");
    await page.getByText("text of the file").waitFor();
    await look("a file");
    for (const path of PAGES) {
      await goTo(page, path);
      await look(path);
    }
    expect(offered).toEqual([]);
    expect(refused).toEqual([]);
    await bay.keys.revoke(made.id);
  },
);

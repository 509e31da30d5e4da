/** Python in cells, as people use it: figures, tables, errors, an interrupt; and what a cell prints is inert. */

import type { Locator, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bay, goTo, PATIENCE_MS, signedIn, type Visitor, withBrowser } from "./world";

withBrowser();

beforeAll(async () => {
  await bay.sandboxes.create({ name: "cells", wait: 60 });
});

afterAll(async () => {
  for await (const box of bay.sandboxes.list()) await box.delete();
});

/** A notebook of its own, with nothing kept of those before. */
async function notebook(): Promise<Visitor> {
  const one = await signedIn();
  await goTo(one.page, "sandboxes/cells/python");
  return one;
}

/** Run that in the last cell; gives where its output is. */
async function run(page: Page, code: string): Promise<Locator> {
  const cell = page.getByRole("textbox", { name: /^Code of cell/ }).last();
  const number = (await cell.getAttribute("aria-label"))?.split(" ").at(-1);
  await cell.click();
  await page.keyboard.insertText(code);
  await page.keyboard.press("Shift+Enter");
  return page.getByRole("region", { name: `Output of cell ${number}` });
}

test("a plot is drawn, and a table has its cells", async () => {
  const { page } = await notebook();
  const drawn = await run(
    page,
    "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3], [3, 1, 2])\nplt.title('a line')\nplt.show()",
  );
  const image = drawn.getByRole("img", { name: "An image of cell 1" });
  await image.waitFor();
  await expect
    .poll(() => image.evaluate((one) => (one as HTMLImageElement).naturalWidth), { timeout: PATIENCE_MS })
    .toBeGreaterThan(100);
  const table = await run(
    page,
    [
      "class Frame:",
      "    def _repr_html_(self):",
      "        head = '<table border=1><thead><tr><th></th><th>price</th></tr></thead>'",
      "        return head + '<tbody><tr><th>0</th><td>3.5</td></tr></tbody></table>'",
      "try:",
      "    import pandas",
      "    shown = pandas.DataFrame({'price': [3.5]})",
      "except ImportError:  # its markup, where it is not installed",
      "    shown = Frame()",
      "shown",
    ].join("\n"),
  );
  await table.getByRole("columnheader", { name: "price" }).waitFor();
  await table.getByRole("cell", { name: "3.5" }).waitFor();
});

test("an error is shown with its traceback, and a cell that runs for ever is interrupted", async () => {
  const { page } = await notebook();
  const failed = await run(page, "def inner():\n    return 1 / 0\n\ninner()");
  await failed.getByText("ZeroDivisionError").first().waitFor();
  await failed.getByText("inner()").first().waitFor();
  const endless = await run(page, "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.1)");
  await endless.getByText("begun").waitFor();
  await page.getByRole("button", { name: "Interrupt this cell" }).click();
  await endless.getByText("KeyboardInterrupt").first().waitFor();
  const after = await run(page, "print('still', 'here')");
  await after.getByText("still here").waitFor();
});

test("markup that a cell shows runs nothing, loads nothing and leaves its place by no means", async () => {
  const { page, troubles } = await notebook();
  const asked: string[] = [];
  page.on("request", (request) => {
    if (request.url().includes("stolen")) asked.push(request.url());
  });
  page.on("dialog", (dialog) => {
    throw new Error(`a cell opened a dialog: ${dialog.message()}`);
  });
  const markup = [
    "<script>alert(1)</script><img src=/stolen onerror=alert(2)><svg onload=alert(3)></svg>",
    "<iframe src=/stolen></iframe><form action=/stolen><button>sign in</button></form>",
    "<a href=javascript:alert(4)>link</a><style>body{display:none}</style>",
    "<div style='position:fixed;inset:0'>over all</div>",
    "<table><tr><td onclick=alert(5)>inert<script>alert(6)</script></td></tr></table>",
  ].join("");
  const drawn =
    "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9' onload='alert(7)'><script>alert(8)</script></svg>";
  const shown = await run(
    page,
    [
      "from IPython.display import SVG, display",
      "class Evil:",
      `    def _repr_html_(self): return ${JSON.stringify(markup)}`,
      "print('\\x1b]0;pwned\\x07plain-end')",
      `display(SVG(${JSON.stringify(drawn)}))`,
      "Evil()",
    ].join("\n"),
  );
  await shown.getByText("plain-end").waitFor();
  await shown.getByText("inert").first().waitFor();
  expect(await shown.locator("script, iframe, form, style, object, embed, a[href^=javascript]").count()).toBe(
    0,
  );
  expect(await shown.locator("[onclick], [onerror], [onload]").count()).toBe(0);
  expect(await page.title()).not.toContain("pwned");
  expect(asked).toEqual([]);
  // It is parsed where nothing runs, and the page's policy says of each handler and style that it would not either.
  for (const one of troubles.found.splice(0))
    expect(one).toMatch(/^(Executing inline event handler|Applying inline style)/);
});

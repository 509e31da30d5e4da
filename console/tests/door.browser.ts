/** Signing in, staying in, and what a stranger's page cannot do. */

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { bay, KEY, signedIn, signIn, URL_OF_BAY, visitor, withBrowser } from "./world";

withBrowser();

const DOOR = "Sign in to Bay";

test("a wrong key is refused in words, and the right one opens the console", async () => {
  const { page } = await visitor();
  await page.goto(URL_OF_BAY);
  await page.getByLabel("API key", { exact: true }).fill(`bay_${"x".repeat(43)}`);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("this API key is unknown, revoked or expired").waitFor();
  await signIn(page, KEY);
  expect(page.url()).toBe(`${URL_OF_BAY}/console/sandboxes`);
});

test("the sign-in outlives a reload, and scripts cannot read it", async () => {
  const { page, context } = await signedIn();
  await page.reload();
  await page.getByRole("heading", { level: 1, name: "Sandboxes" }).waitFor();
  expect(await page.evaluate(() => document.cookie)).toBe("");
  expect(
    await page.evaluate((key) => JSON.stringify({ ...localStorage, ...sessionStorage }).includes(key), KEY),
  ).toBe(false);
  const [cookie] = await context.cookies();
  expect(cookie).toMatchObject({ httpOnly: true, sameSite: "Strict", path: "/" });
  expect(cookie?.value).not.toContain(KEY);
});

test("whoever signs out is out in a reloaded page too", async () => {
  const { page, context } = await signedIn();
  await page.getByRole("button", { name: "admin · admin" }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await page.getByText("You are signed out.").waitFor();
  await page.reload();
  await page.getByRole("heading", { name: DOOR }).waitFor();
  expect(await context.cookies()).toEqual([]);
});

test("a key that is revoked in an open console leads back to the door", async () => {
  const made = await bay.keys.create("for one test", { scope: "write" });
  const { page } = await signedIn({}, made.secret ?? "");
  await bay.keys.revoke(made.id);
  await page.getByText("Your sign-in has ended").waitFor();
  await page.reload();
  await page.getByRole("heading", { name: DOOR }).waitFor();
});

test("a code of `bay open` signs in once, and leaves nothing in the address", async () => {
  const { url } = await bay.request<{ url: string }>({ method: "POST", path: "/v1/console/codes" });
  const first = await visitor();
  await first.page.goto(url);
  await first.page.getByRole("heading", { level: 1, name: "Sandboxes" }).waitFor();
  expect(first.page.url()).not.toContain("code");
  const second = await visitor();
  await second.page.goto(url);
  await second.page.getByRole("heading", { name: DOOR }).waitFor();
  await second.page.getByText("bay open").first().waitFor();
});

test("a page of a stranger cannot act as the one who is signed in", async () => {
  const { context, troubles } = await signedIn();
  const server = createServer((_, answer) => answer.end("<!doctype html><title>stranger</title>")).listen(
    0,
    "127.0.0.1",
  );
  try {
    const page = await context.newPage();
    // Another origin of the same site: the same host, another port.
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    const outcomes = await page.evaluate(async (url) => {
      const attempt = async (init: RequestInit): Promise<string> => {
        try {
          const answer = await fetch(`${url}/v1/sandboxes`, { credentials: "include", ...init });
          return `${answer.type} ${answer.status}`;
        } catch {
          return "refused";
        }
      };
      const json = JSON.stringify({ name: "stolen" });
      return Promise.all([
        attempt({}),
        attempt({ headers: { "Bay-Console": "1" } }),
        attempt({ method: "POST", mode: "no-cors", headers: { "Content-Type": "text/plain" }, body: json }),
        attempt({
          method: "POST",
          headers: { "Bay-Console": "1", "Content-Type": "application/json" },
          body: json,
        }),
      ]);
    }, URL_OF_BAY);
    expect(outcomes).toEqual(["refused", "refused", "opaque 0", "refused"]);
    const socket = await page.evaluate(
      (url) =>
        new Promise<string>((resolve) => {
          const one = new WebSocket(`${url.replace("http", "ws")}/v1/sandboxes/x/files/watch`, ["bay.v1"]);
          one.onopen = () => resolve("open");
          one.onerror = () => resolve("refused");
        }),
      URL_OF_BAY,
    );
    expect(socket).toBe("refused");
    const names: (string | null)[] = [];
    for await (const box of bay.sandboxes.list()) names.push(box.name);
    expect(names).not.toContain("stolen");
    troubles.found.length = 0; // the stranger's page has no policy of ours
  } finally {
    server.close();
  }
});

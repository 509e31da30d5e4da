import { expect, test, vi } from "vitest";
import { messageOf, Transfers, type Work } from "./transfers";

const FILE = { sandbox: "sandbox-1", direction: "up", total: 10 } as const;

function held(): { work: Work; end(): void; fail(): void; signals: AbortSignal[] } {
  const signals: AbortSignal[] = [];
  let end = (): void => undefined;
  let fail = (): void => undefined;
  const work: Work = (say, signal) => {
    signals.push(signal);
    say(5);
    return new Promise((resolve, reject) => {
      end = resolve;
      fail = () => reject(new Error("no room"));
      signal.addEventListener("abort", () => reject(new Error("cancelled")));
    });
  };
  return { work, end: () => end(), fail: () => fail(), signals };
}

function made(): Transfers {
  return new Transfers((show) => show());
}

const states = (all: Transfers): string[] => all.list().map((one) => one.state);

test("three run at once, and the next begins when one ends", async () => {
  const all = made();
  const works = Array.from({ length: 4 }, held);
  works.forEach((one, at) => {
    all.add({ ...FILE, path: `/workspace/${at}` }, one.work);
  });
  expect(states(all)).toEqual(["running", "running", "running", "waiting"]);
  expect(all.list()[0]?.done).toBe(5);
  works[1]?.end();
  await vi.waitFor(() => expect(states(all)).toEqual(["running", "done", "running", "running"]));
  expect(all.isBusy).toBe(true);
});

test("a failure says why, and can be tried again", async () => {
  const all = made();
  const one = held();
  all.add({ ...FILE, path: "/workspace/a" }, one.work);
  one.fail();
  await vi.waitFor(() => expect(all.list()[0]).toMatchObject({ state: "failed", error: "no room" }));
  all.again(1);
  expect(all.list()[0]).toMatchObject({ state: "running", error: "" });
  one.end();
  await vi.waitFor(() => expect(states(all)).toEqual(["done"]));
});

test("a cancelled one stops its work, and one that waited never begins", async () => {
  const all = made();
  const works = Array.from({ length: 4 }, held);
  works.forEach((one, at) => {
    all.add({ ...FILE, path: `/workspace/${at}` }, one.work);
  });
  all.cancel(4);
  all.cancel(1);
  expect(works[0]?.signals[0]?.aborted).toBe(true);
  works[1]?.end();
  works[2]?.end();
  await vi.waitFor(() => expect(states(all)).toEqual(["cancelled", "done", "done", "cancelled"]));
  expect(works[3]?.signals).toHaveLength(0);
});

test("those that are over are cleared, of one sandbox alone", async () => {
  const all = made();
  const one = held();
  const other = held();
  all.add({ ...FILE, path: "/workspace/a" }, one.work);
  all.add({ ...FILE, sandbox: "sandbox-2", path: "/workspace/b" }, other.work);
  one.end();
  other.end();
  await vi.waitFor(() => expect(states(all)).toEqual(["done", "done"]));
  all.clear("sandbox-1");
  expect(all.list().map((left) => left.sandbox)).toEqual(["sandbox-2"]);
});

test("a refusal is told in the server's words", () => {
  expect(messageOf('{"error": {"message": "the disk is full"}}', 507)).toBe("the disk is full");
  expect(messageOf("<html>", 502)).toBe("the server answered 502");
});

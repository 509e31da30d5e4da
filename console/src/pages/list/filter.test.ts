import type { Sandbox } from "bay-sandbox";
import { expect, test } from "vitest";
import { matches, ordered } from "./filter";

function box(given: Partial<Sandbox>): Sandbox {
  const plain = { id: "sandbox-1", name: "demo", profile: "python-default", image: "host", labels: {} };
  return {
    ...plain,
    status: "ready",
    compute: "running",
    created_at: "2026-01-01T00:00:00Z",
    ...given,
  } as Sandbox;
}

test("every word of a search must occur, in a name, an image or a label", () => {
  const mine = box({ labels: { team: "ml" }, image: "python:3.13" });
  expect(matches(mine, { text: "demo team=ml", state: "" })).toBe(true);
  expect(matches(mine, { text: "PYTHON:3", state: "" })).toBe(true);
  expect(matches(mine, { text: "demo team=web", state: "" })).toBe(false);
  expect(matches(mine, { text: "", state: "" })).toBe(true);
});

test("a sandbox that failed is found as failed, whatever its compute is", () => {
  const broken = box({ status: "failed", compute: "cold" });
  expect(matches(broken, { text: "", state: "failed" })).toBe(true);
  expect(matches(broken, { text: "", state: "cold" })).toBe(false);
});

test("the newest sandbox comes first", () => {
  const list = [box({ id: "a", created_at: "2026-01-01" }), box({ id: "b", created_at: "2026-02-01" })];
  expect(ordered(list).map((one) => one.id)).toEqual(["b", "a"]);
});

import type { Key } from "bay-sandbox";
import { expect, test } from "vitest";
import { quotasOf, stateOf, wantedKeys } from "./states";

const NOW = Date.parse("2030-01-01T00:00:00Z");

function key(changes: Partial<Key>): Key {
  return {
    id: "key-1",
    name: "ci",
    owner: "ann",
    scope: "write",
    quotas: null,
    created_at: "2029-01-01T00:00:00Z",
    expires_at: null,
    revoked_at: null,
    ...changes,
  };
}

test("a revoked key is revoked also when its time is over, and one ends at its very moment", () => {
  expect(stateOf(key({}), NOW)).toBe("valid");
  expect(stateOf(key({ expires_at: "2030-01-01T00:00:01Z" }), NOW)).toBe("valid");
  expect(stateOf(key({ expires_at: "2030-01-01T00:00:00Z" }), NOW)).toBe("expired");
  expect(stateOf(key({ expires_at: "2029-06-01T00:00:00Z", revoked_at: "2029-02-01T00:00:00Z" }), NOW)).toBe(
    "revoked",
  );
});

test("keys are found by name, owner, id and scope, the newest first", () => {
  const all = [
    key({}),
    key({ id: "key-2", owner: "Bob" }),
    key({ id: "key-3", revoked_at: "2029-02-01T00:00:00Z" }),
  ];
  const ids = (text: string, state: "" | "valid" | "revoked" = ""): string[] =>
    wantedKeys(all, text, state, NOW).map((one) => one.id);
  expect(ids("")).toEqual(["key-3", "key-2", "key-1"]);
  expect(ids(" bob ")).toEqual(["key-2"]);
  expect(ids("WRITE", "valid")).toEqual(["key-2", "key-1"]);
  expect(ids("key-3", "valid")).toEqual([]);
});

test("an empty field is no quota, and zero is one", () => {
  const form = new FormData();
  expect(quotasOf(form)).toBeNull();
  form.set("sandboxes", "0");
  form.set("cpus", " 1.5 ");
  form.set("running", " ");
  expect(quotasOf(form)).toEqual({ sandboxes: 0, cpus: 1.5 });
});

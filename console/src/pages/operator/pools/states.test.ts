import { expect, test } from "vitest";
import { hitRate, stateOf } from "./states";

const POOL = { ready: 1, size: 2, failures: 0, last_error: null, refill_at: null };

test("a pool is full, is filled, or fails until the next attempt", () => {
  expect(stateOf(POOL)).toBe("filling");
  expect(stateOf({ ...POOL, ready: 2 })).toBe("full");
  expect(stateOf({ ...POOL, last_error: "no space", refill_at: "2030-01-01T00:00:00Z" })).toBe("failing");
  expect(stateOf({ ...POOL, last_error: "no space" })).toBe("filling");
  expect(stateOf({ ...POOL, size: 0, ready: 0 })).toBe("full");
});

test("there is no rate before the first create", () => {
  expect(hitRate({ hits: 0, misses: 0 })).toBeNull();
  expect(hitRate({ hits: 2, misses: 1 })).toBe(67);
});

import { expect, test } from "vitest";
import { columnsOf, later, pointsOf, sharesOf } from "./shares";

test("each state has its share of all, also those that no sandbox is in", () => {
  const found = sharesOf({
    total: 4,
    by_status: {},
    by_compute: { running: 3, cold: 1 },
    pooled: 2,
    sessions: 5,
  });
  expect(found.map(({ name, number, part }) => [name, number, part])).toEqual([
    ["running", 3, 0.75],
    ["warming", 0, 0],
    ["warm", 0, 0],
    ["hibernated", 0, 0],
    ["cold", 1, 0.25],
  ]);
  expect(sharesOf({ total: 0, by_status: {}, by_compute: {}, pooled: 0, sessions: 0 })[0]?.part).toBe(0);
});

test("the histogram has no empty columns at its ends, and keeps those between", () => {
  const starts = (...counts: number[]) => ({
    count: 0,
    sum_s: 0,
    buckets: counts.map((count, at) => ({ le_s: at === 3 ? null : 10 ** at, count })),
  });
  expect(columnsOf(starts(0, 0, 0, 0))).toEqual([]);
  expect(columnsOf(starts(0, 4, 0, 2))).toEqual([
    { upTo: 10, from: 1, number: 4, height: 1 },
    { upTo: 100, from: 10, number: 0, height: 0 },
    { upTo: null, from: 100, number: 2, height: 0.5 },
  ]);
  expect(columnsOf(starts(1, 0, 0, 0))).toEqual([{ upTo: 1, from: 0, number: 1, height: 1 }]);
});

test("a line has the newest values, from the left to the right and the highest on top", () => {
  expect(later([1, 2], 3, 2)).toEqual([2, 3]);
  expect(pointsOf([], 10, 10, 1)).toBe("");
  expect(pointsOf([0, 2, 1], 10, 10, 1)).toBe("0.0,10.0 5.0,0.0 10.0,5.0");
  expect(pointsOf([1], 10, 10, 4)).toBe("0.0,7.5");
});

import { expect, test } from "vitest";
import { columns, isUnmeasured, latest, type Point, rate } from "./series";

function point(at: number, cpus: number | null): Point {
  return { at: new Date(at * 1000).toISOString(), seconds: 10, cpus_used: cpus } as Point;
}

const LINES = [{ name: "used", value: (one: Point) => one.cpus_used }];

test("a time without points is a gap, and no line goes over it", () => {
  expect(columns([point(0, 1), point(10, 2), point(60, 3)], 10, LINES)).toEqual([
    [0, 10, 20, 60],
    [1, 2, null, 3],
  ]);
});

test("a figure that is not known is no zero", () => {
  expect(columns([point(0, null)], 10, LINES)).toEqual([[0], [null]]);
  expect(rate(null, 10)).toBeNull();
  expect(rate(100, 0)).toBeNull();
  expect(rate(100, 10)).toBe(10);
});

test("the last value that there is stands beside the chart", () => {
  expect(
    latest([
      [0, 10],
      [1, null],
    ]),
  ).toEqual([1]);
  expect(latest([[], []])).toEqual([null]);
});

test("only a figure that no point has is one that the host does not measure", () => {
  expect(isUnmeasured(columns([point(0, null), point(10, null), point(20, null)], 10, LINES))).toBe(true);
  expect(isUnmeasured(columns([point(0, null), point(10, null), point(20, 0)], 10, LINES))).toBe(false);
  expect(isUnmeasured(columns([point(0, null), point(10, null)], 10, LINES))).toBe(false);
});

import { expect, test } from "vitest";
import { ranges } from "./ranges";

test("neighbours are one range, in any order and also when one comes twice", () => {
  expect(ranges([])).toBe("");
  expect(ranges([7, 0, 2, 1, 3, 2])).toBe("0–3, 7");
  expect(ranges([4])).toBe("4");
});

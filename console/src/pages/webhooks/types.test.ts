import { expect, test } from "vitest";
import { GROUPS, toggled } from "./types";

test("the types are in groups by their first word", () => {
  expect(GROUPS.map(([group]) => group)).toEqual([
    "sandbox",
    "network",
    "port",
    "service",
    "image",
    "template",
  ]);
  for (const [group, types] of GROUPS) expect(types.every((type) => type.startsWith(`${group}.`))).toBe(true);
});

test("a group is taken as a whole, and left as a whole once all of it is taken", () => {
  const ports = ["port.opened", "port.closed"] as const;
  const some = toggled(new Set(["port.opened", "image.ready"] as const), ports);
  expect(some).toEqual(new Set(["port.opened", "port.closed", "image.ready"]));
  expect(toggled(some, ports)).toEqual(new Set(["image.ready"]));
});

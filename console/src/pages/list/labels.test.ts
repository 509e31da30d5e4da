import { expect, test } from "vitest";
import { labelsOf } from "./labels";

const words = (line: string): string => `no label: ${line}`;

test("each line is a label, and a value may have an equals sign", () => {
  expect(labelsOf("team=ml\n\n query = a=b ", words)).toEqual({ team: "ml", query: "a=b" });
});

test("a line that is no label is named", () => {
  expect(() => labelsOf("team=ml\nstray", words)).toThrow("no label: stray");
  expect(() => labelsOf("=x", words)).toThrow("no label: =x");
});

import { expect, test } from "vitest";
import { neighbour, typed } from "./tree_keys";

const ITEMS = ["src", "docs", "scripts", "Ünicode"];

test("arrows lead to the items beside, and not past the ends", () => {
  expect(neighbour(ITEMS, "docs", "ArrowDown")).toBe("scripts");
  expect(neighbour(ITEMS, "src", "ArrowUp")).toBeNull();
  expect(neighbour(ITEMS, "Ünicode", "ArrowDown")).toBeNull();
  expect(neighbour(ITEMS, "docs", "End")).toBe("Ünicode");
  expect(neighbour(ITEMS, "docs", "Home")).toBe("src");
  expect(neighbour(ITEMS, "docs", "x")).toBeNull();
});

test("a letter leads to the next name that begins with it, around the end", () => {
  const name = (item: string): string => item;
  expect(typed(ITEMS, "src", "s", name)).toBe("scripts");
  expect(typed(ITEMS, "scripts", "S", name)).toBe("src");
  expect(typed(ITEMS, "src", "ü", name)).toBe("Ünicode");
  expect(typed(ITEMS, "src", "Shift", name)).toBeNull();
});

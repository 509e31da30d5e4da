import { expect, test } from "vitest";
import { plain, tail } from "./plain";

test("escape sequences are left out: colours, titles, the clipboard, unended ones", () => {
  expect(plain("\x1b[31mred\x1b[0m")).toBe("red");
  expect(plain("a\x1b]0;title\x07b\x1b]52;c;aGk=\x1b\\c")).toBe("abc");
  expect(plain("a\x1b]52;c;never ended")).toBe("a");
  expect(plain("\x1b(B\x1b7x\x1bPq#0\x1b\\")).toBe("x");
});

test("characters that turn text around are left out, and letters of any script stay", () => {
  expect(plain("a\u202eb\u0000c")).toBe("abc");
  expect(plain("日本語 עברית\tx\r\ny\rz")).toBe("日本語 עברית\tx\ny\nz");
});

test("the end of a long text begins with a line", () => {
  expect(tail("one\ntwo\nthree", 8)).toBe("three");
  expect(tail("short", 8)).toBe("short");
});

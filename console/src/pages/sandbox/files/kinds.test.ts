import { expect, test } from "vitest";
import { extensionOf, imageType, kindOf, textOf } from "./kinds";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

test("a file is shown by what its name says", () => {
  expect(kindOf("/workspace/a.PNG")).toBe("image");
  expect(kindOf("/workspace/a.svg")).toBe("svg");
  expect(kindOf("/workspace/a.tsv")).toBe("table");
  expect(kindOf("/workspace/README.md")).toBe("markdown");
  expect(kindOf("/workspace/constructor.toString")).toBe("text");
  expect(extensionOf("/workspace/.bashrc")).toBe("");
  expect(imageType("/workspace/a.txt")).toBe("");
});

test("what has a NUL or is not UTF-8 is no text", () => {
  expect(textOf(new Uint8Array([65, 0, 66]))).toBeNull();
  expect(textOf(new Uint8Array([0xc3, 0x28]))).toBeNull();
  expect(textOf(new Uint8Array([]))).toEqual({ text: "", ends: "\n" });
});

test("a part of a text may end within a character", () => {
  const part = bytes("aé").subarray(0, 2);
  expect(textOf(part)).toBeNull();
  expect(textOf(part, true)?.text).toBe("a");
});

test("line ends are those of the whole file, and mixed ones stay as they are", () => {
  expect(textOf(bytes("a\r\nb\r\n"))?.ends).toBe("\r\n");
  expect(textOf(bytes("a\r\nb\n"))?.ends).toBe("\n");
  expect(textOf(bytes("a\rb\r\n"))?.ends).toBe("\n");
});

test("a mark of the order of bytes is kept", () => {
  expect(textOf(new Uint8Array([0xef, 0xbb, 0xbf, 65]))?.text).toBe("\ufeffA");
});

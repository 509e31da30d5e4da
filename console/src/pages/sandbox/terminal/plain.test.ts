import { expect, test, vi } from "vitest";
import { openLink, plainLine, plainPaste, webAddress } from "./plain";

test("a title is one short line without characters that hide or turn it", () => {
  expect(plainLine("build\r\n\x1b[31m in\u202Eevil\u2066 \u200Bx")).toBe("build [31m in evil x");
  expect(plainLine("\u202E\u200B")).toBe("");
  expect(plainLine("x".repeat(10_000))).toBe(`${"x".repeat(47)}…`);
  expect([...plainLine("🚀".repeat(100))]).toHaveLength(48);
});

test("pasted text cannot end a bracketed paste, and keeps its tabs and lines", () => {
  expect(plainPaste("a\tb\r\nc\x1b[201~rm -rf /\x9b201~\x03\x00")).toBe("a\tb\r\nc[201~rm -rf /201~");
});

test("links are opened for http and https alone, by a page that knows nothing of this one", () => {
  const open = vi.spyOn(window, "open").mockReturnValue(null);
  for (const text of [
    "javascript:alert(1)",
    "data:text/html,x",
    "file:///etc/passwd",
    "blob:x",
    "vscode://x",
    "//x",
    "",
  ])
    openLink(text);
  expect(open).not.toHaveBeenCalled();
  openLink("https://example.com/a?b#c");
  expect(open).toHaveBeenCalledExactlyOnceWith("https://example.com/a?b#c", "_blank", "noopener,noreferrer");
  expect(webAddress("HTTP://example.com")).toBe("http://example.com/");
});

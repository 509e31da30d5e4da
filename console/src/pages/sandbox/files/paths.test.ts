import { expect, test } from "vitest";
import {
  absolute,
  globOf,
  isUnreachable,
  isWithin,
  join,
  nameOf,
  parentOf,
  piecesOf,
  plain,
  problemOf,
  wayTo,
} from "./paths";

test("a path is taken apart and put together again", () => {
  expect(join("/", "a")).toBe("/a");
  expect(join("/workspace", "a b")).toBe("/workspace/a b");
  expect(parentOf("/workspace/a")).toBe("/workspace");
  expect(parentOf("/a")).toBe("/");
  expect(parentOf("/")).toBe("/");
  expect(nameOf("/workspace/a.txt")).toBe("a.txt");
  expect(nameOf("/")).toBe("/");
  expect(wayTo("/workspace/a")).toEqual(["/", "/workspace", "/workspace/a"]);
  expect(wayTo("/")).toEqual(["/"]);
});

test("a folder beside another of a longer name is not within it", () => {
  expect(isWithin("/workspace/ab", "/workspace/a")).toBe(false);
  expect(isWithin("/workspace/a/b", "/workspace/a")).toBe(true);
  expect(isWithin("/workspace/a", "/workspace/a")).toBe(true);
  expect(isWithin("/etc", "/")).toBe(true);
});

test("dots of a path are followed, and lead no further than the root", () => {
  expect(absolute("a/../b/./c")).toBe("/workspace/b/c");
  expect(absolute("../../../../etc")).toBe("/etc");
  expect(absolute("//a///b/")).toBe("/a/b");
  expect(absolute("x", "/")).toBe("/x");
});

test("names that no file can have are refused with their reason", () => {
  expect(problemOf("")).toBe("empty");
  expect(problemOf("..")).toBe("dots");
  expect(problemOf("a/b")).toBe("slash");
  expect(problemOf("a\0b")).toBe("nul");
  expect(problemOf("é".repeat(128))).toBe("long");
  expect(problemOf("é".repeat(127))).toBeNull();
  expect(problemOf("<b>\n☃")).toBeNull();
});

test("characters that are not seen have signs, and markup stays text", () => {
  expect(piecesOf("a\nb")).toEqual([{ text: "a" }, { text: "\\n", hidden: "U+000A" }, { text: "b" }]);
  expect(plain("\x7f\x1b")).toBe("\\x7f\\x1b");
  expect(plain("gpj\u202eexe.png")).toBe("gpjU+202Eexe.png");
  expect(plain("<img src=x onerror=alert(1)>")).toBe("<img src=x onerror=alert(1)>");
  expect(plain("می\u200cخواهم 👩\u200d💻 ❤️")).toBe("می\u200cخواهم 👩\u200d💻 ❤️");
  expect(plain("a\u200db")).toBe("aU+200Db");
  expect(plain("日本語 العربية 🙂")).toBe("日本語 العربية 🙂");
});

test("a name that is not UTF-8 is known by its replacement character", () => {
  expect(isUnreachable("/workspace/\ufffd.txt")).toBe(true);
  expect(isUnreachable("/workspace/ü.txt")).toBe(false);
});

test("signs of a glob in a search for names mean themselves", () => {
  expect(globOf("a[1]*?")).toBe("*a[[]1[]][*][?]*");
});

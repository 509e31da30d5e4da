import type { FileInfo } from "bay-sandbox";
import { expect, test } from "vitest";
import { inOrder, modeSigns } from "./order";

function file(name: string, size: number, mtime: number): FileInfo {
  return {
    name,
    path: `/workspace/${name}`,
    type: "file",
    size,
    mode: "0644",
    uid: 1,
    gid: 1,
    mtime,
    target: null,
  };
}
const FOLDER: FileInfo = { ...file("zoo", 0, 9), type: "directory", size: null };
const ALL = [file("a10", 1, 3), FOLDER, file("a9", 3, 2), file("B", 2, 1)];

const named = (entries: FileInfo[]): string[] => entries.map((one) => one.name);

test("folders come first, and numbers in names count as numbers", () => {
  expect(named(inOrder(ALL, { column: "name", isDown: false }))).toEqual(["zoo", "a9", "a10", "B"]);
  expect(named(inOrder(ALL, { column: "name", isDown: true }))).toEqual(["zoo", "B", "a10", "a9"]);
});

test("a size or a time orders the files, either way", () => {
  expect(named(inOrder(ALL, { column: "size", isDown: true }))).toEqual(["zoo", "a9", "B", "a10"]);
  expect(named(inOrder(ALL, { column: "mtime", isDown: false }))).toEqual(["zoo", "B", "a9", "a10"]);
});

test("permissions are shown in letters", () => {
  expect(modeSigns("0644")).toBe("rw-r--r--");
  expect(modeSigns("4755")).toBe("rwxr-xr-x");
});

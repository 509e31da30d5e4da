import { expect, test } from "vitest";
import { ofDrop, ofField } from "./dropped";

type Tree = { [name: string]: Tree | string };

function entry(name: string, tree: Tree | string): FileSystemEntry {
  if (typeof tree === "string") {
    const file = new File([tree], name);
    return {
      name,
      isFile: true,
      file: (give: (file: File) => void) => give(file),
    } as unknown as FileSystemEntry;
  }
  const left = Object.entries(tree).map(([child, below]) => entry(child, below));
  const createReader = () => ({
    // In parts of two, as browsers give a hundred.
    readEntries: (give: (part: FileSystemEntry[]) => void) => give(left.splice(0, 2)),
  });
  return { name, isFile: false, createReader } as unknown as FileSystemEntry;
}

function drop(tree: Tree): DataTransfer {
  const items = Object.entries(tree).map(([name, below]) => ({ webkitGetAsEntry: () => entry(name, below) }));
  return { items } as unknown as DataTransfer;
}

test("a dropped folder comes with everything below it, and an empty one by its name", async () => {
  const found = await ofDrop(drop({ "a.txt": "1", src: { "b.py": "2", c: "3", d: { e: "4" }, empty: {} } }));
  expect(found.files.map((one) => one.path)).toEqual(["a.txt", "src/b.py", "src/c", "src/d/e"]);
  expect(found.folders).toEqual(["src/empty"]);
});

test("chosen files have their names, and those of a folder their paths", () => {
  const inFolder = Object.assign(new File([""], "x"), {});
  Object.defineProperty(inFolder, "webkitRelativePath", { value: "src/x" });
  expect(ofField([new File([""], "<b>.txt"), inFolder]).files.map((one) => one.path)).toEqual([
    "<b>.txt",
    "src/x",
  ]);
});

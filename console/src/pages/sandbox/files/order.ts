/** The order of a folder's entries. */

import type { FileInfo } from "bay-sandbox";

export type Column = "name" | "size" | "mode" | "mtime";
export interface Order {
  column: Column;
  isDown: boolean;
}

const names = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/** Folders first, then by the column, and by name where that says nothing. */
export function inOrder(entries: readonly FileInfo[], { column, isDown }: Order): FileInfo[] {
  const sign = isDown ? -1 : 1;
  const isFolder = (one: FileInfo): number => (one.type === "directory" ? 0 : 1);
  const by = (one: FileInfo, other: FileInfo): number => {
    if (column === "size") return (one.size ?? 0) - (other.size ?? 0);
    if (column === "mtime") return one.mtime - other.mtime;
    if (column === "mode") return one.mode.localeCompare(other.mode);
    return 0;
  };
  return [...entries].sort(
    (one, other) =>
      isFolder(one) - isFolder(other) ||
      sign * by(one, other) ||
      (column === "name" ? sign : 1) *
        (names.compare(one.name, other.name) || (one.name < other.name ? -1 : 1)),
  );
}

const SIGNS = ["---", "--x", "-w-", "-wx", "r--", "r-x", "rw-", "rwx"];

/** Such as "rw-r--r--" for "0644". */
export function modeSigns(mode: string): string {
  return [...mode.slice(-3)].map((digit) => SIGNS[Number(digit)] ?? "???").join("");
}

/** Which shells the terminal shows, of all the execs that a sandbox has. */

import type { Exec } from "bay-sandbox";
import { plainLine } from "./plain";

/**
 * The shells to show, oldest first: those of before, as `list` has them now, and the running ones that are new
 * there. One that was left is shown again only when it is asked for. Gives `before` itself when nothing changed.
 */
export function merge(
  before: readonly Exec[],
  list: readonly Exec[],
  left: ReadonlySet<string>,
): readonly Exec[] {
  const now = new Map(list.map((exec) => [exec.id, exec]));
  const kept = before.filter((exec) => !left.has(exec.id)).map((exec) => now.get(exec.id) ?? exec);
  const known = new Set(kept.map((exec) => exec.id));
  const added = list.filter(
    (one) => one.tty && one.state === "running" && !known.has(one.id) && !left.has(one.id),
  );
  const shown = [...kept, ...added].sort((one, other) => one.started_at.localeCompare(other.started_at));
  const isSame = shown.length === before.length && shown.every((exec, at) => exec === before[at]);
  return isSame ? before : shown;
}

/** The tab that is shown next to a closed one. */
export function neighbour(shells: readonly Exec[], closed: string): string | null {
  const at = shells.findIndex((exec) => exec.id === closed);
  return (shells[at + 1] ?? shells[at - 1])?.id ?? null;
}

/** What a terminal is called before it says a title: its command, its program; empty for a login shell. */
export function programOf({ argv }: Exec): string {
  const [first = "", option, command] = argv;
  if (option === "-c" && command !== undefined) return /^exec .* -l$/.test(command) ? "" : plainLine(command);
  return plainLine(first.split("/").at(-1)?.replace(/^-/, "") ?? "");
}

/** The bytes that a key of the row for phones types, with `ctrl` as if Ctrl were held (ECMA-48's C0 set). */
export function withCtrl(typed: string): string {
  const code = typed.toUpperCase().charCodeAt(0);
  if (typed.length !== 1) return typed;
  if (typed === " ") return "\x00";
  if (typed === "?") return "\x7f";
  return code >= 0x40 && code <= 0x5f ? String.fromCharCode(code & 0x1f) : typed;
}

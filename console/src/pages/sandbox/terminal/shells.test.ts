import type { Exec } from "bay-sandbox";
import { expect, test } from "vitest";
import { merge, neighbour, programOf, withCtrl } from "./shells";

function exec(id: string, more: Partial<Exec> = {}): Exec {
  return {
    id,
    argv: ["bash"],
    pid: 1,
    tty: true,
    state: "running",
    exit_code: null,
    signal: null,
    started_at: `2026-01-01T00:00:0${id}Z`,
    ended_at: null,
    output_bytes: 0,
    first_offset: 0,
    keep_alive: false,
    timed_out: false,
    wait_for_reader: false,
    truncated: false,
    ...more,
  } as Exec;
}

const NONE = new Set<string>();
const ids = (shells: readonly Exec[]): string[] => shells.map(({ id }) => id);

test("running execs with a terminal are shown, oldest first, and no others", () => {
  const list = [exec("3"), exec("2", { tty: false }), exec("1"), exec("0", { state: "exited" })];
  expect(ids(merge([], list, NONE))).toEqual(["1", "3"]);
});

test("a shell that ended stays until it is closed, also when the list forgets it", () => {
  const before = [exec("1"), exec("2")];
  const shown = merge(before, [exec("1", { state: "exited" })], NONE);
  expect(shown.map(({ id, state }) => [id, state])).toEqual([
    ["1", "exited"],
    ["2", "running"],
  ]);
  expect(ids(merge(shown, [], new Set(["1"])))).toEqual(["2"]);
});

test("a shell that was left is not shown though it runs", () => {
  expect(ids(merge([exec("1")], [exec("1"), exec("2")], new Set(["1"])))).toEqual(["2"]);
});

test("nothing new gives the same list, so that nothing is drawn again", () => {
  const list = [exec("2"), exec("1")];
  const before = merge([], list, NONE);
  expect(merge(before, list, NONE)).toBe(before);
});

test("the tab behind a closed one is shown next, else the one before it", () => {
  const shells = [exec("1"), exec("2"), exec("3")];
  expect(neighbour(shells, "2")).toBe("3");
  expect(neighbour(shells, "3")).toBe("2");
  expect(neighbour([exec("1")], "1")).toBeNull();
});

test("a login shell has no name of its own, a command has its text", () => {
  expect(programOf(exec("1", { argv: ["sh", "-c", 'exec "$(command -v bash || echo sh)" -l'] }))).toBe("");
  expect(programOf(exec("1", { argv: ["bash", "-c", "top -d 1"] }))).toBe("top -d 1");
  expect(programOf(exec("1", { argv: ["/usr/bin/python3"] }))).toBe("python3");
  expect(programOf(exec("1", { argv: ["-bash"] }))).toBe("bash");
});

test("Ctrl makes control characters of letters, and leaves all else as it is", () => {
  expect(withCtrl("c")).toBe("\x03");
  expect(withCtrl("C")).toBe("\x03");
  expect(withCtrl("[")).toBe("\x1b");
  expect(withCtrl(" ")).toBe("\x00");
  expect(withCtrl("1")).toBe("1");
  expect(withCtrl("paste")).toBe("paste");
  expect(withCtrl("\x1b[A")).toBe("\x1b[A");
});

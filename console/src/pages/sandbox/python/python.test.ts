import type { CellEvent } from "bay-sandbox";
import { expect, test } from "vitest";
import { imageIn } from "./images";
import {
  addAfter,
  type Cell,
  KEPT_LENGTH,
  kept,
  move,
  newCell,
  newRunId,
  remove,
  restored,
} from "./notebook";
import { MOST_TEXT, NOT_RUN, type Ran, take } from "./outputs";
import { tableIn } from "./tables";
import { terminalText } from "./terminal_text";

function ran(...events: (Partial<CellEvent> & Pick<CellEvent, "type">)[]): Ran {
  return events.reduce((before, event, seq) => take(before, { seq, ...event }), NOT_RUN);
}

test("text of one stream is one output, and another stream begins another", () => {
  const { outputs } = ran(
    { type: "start", execution_count: 1 },
    { type: "stdout", text: "a" },
    { type: "stdout", text: "b" },
    { type: "stderr", text: "c" },
    { type: "stdout", text: "d" },
  );
  expect(outputs.map((one) => one.kind === "text" && [one.stream, one.text])).toEqual([
    ["stdout", "ab"],
    ["stderr", "c"],
    ["stdout", "d"],
  ]);
});

test("the end says how it went, and an exception is an output of its own", () => {
  const done = ran(
    { type: "start", execution_count: 7 },
    { type: "error", ename: "ZeroDivisionError", evalue: "x", traceback: ["Traceback", "  line 1"] },
    { type: "end", status: "error", duration_ms: 12 },
  );
  expect(done).toMatchObject({ state: "error", count: 7, durationMs: 12 });
  expect(done.outputs[0]).toMatchObject({ kind: "error", traceback: "Traceback\n  line 1" });
});

test("a display is replaced by its id, and cleared at once or with the next one", () => {
  const show = (text: string, more: Partial<CellEvent> = {}): CellEvent =>
    ({ seq: 0, type: "display", data: { "text/plain": text }, display_id: "d", ...more }) as CellEvent;
  const texts = ({ outputs }: Ran): unknown[] =>
    outputs.map((one) => one.kind === "bundle" && one.data["text/plain"]);
  expect(texts(ran(show("1"), show("2", { update: true })))).toEqual(["2"]);
  expect(texts(ran(show("1"), { type: "clear" }))).toEqual([]);
  expect(texts(ran(show("1"), { type: "clear", wait: true }))).toEqual(["1"]);
  expect(texts(ran(show("1"), { type: "clear", wait: true }, show("2")))).toEqual(["2"]);
});

test("the newest text stays of what is too much, from the begin of a line, and that is said", () => {
  const line = `${"x".repeat(99)}\n`;
  const many = ran(
    ...Array.from({ length: 30 }, () => ({ type: "stdout" as const, text: line.repeat(100) })),
  );
  const [output] = many.outputs;
  if (output?.kind !== "text") throw new Error("no text");
  expect(many.cut).toBe(true);
  expect(output.text.length).toBeLessThanOrEqual(MOST_TEXT);
  expect(output.text.length).toBeGreaterThan(MOST_TEXT - 200);
  expect(output.text.startsWith("x".repeat(99))).toBe(true);
});

test("printed text shows what a terminal would, without escapes", () => {
  expect(terminalText("10%\r50%\r100%\nab\b\bc\n")).toBe("100%\ncb\n");
  expect(terminalText("\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\")).toBe(
    "red link",
  );
  expect(terminalText("a\r\nb\r\n")).toBe("a\nb\n");
  expect(terminalText("bell\x07 nul\x00 c1\x9b31m")).toBe("bell nul c131m");
});

test("a table is its cells' text: nothing else of the HTML is taken, run or loaded", () => {
  const found = tableIn(
    `<style scoped>x</style><script>globalThis.hacked = 1</script><img src=x onerror="globalThis.hacked = 1">
     <table onclick="alert(1)"><thead><tr><th></th><th colspan="99999">a<script>globalThis.hacked = 1</script></th></tr></thead>
     <tbody><tr><th>0</th><td><b>1</b><img src=x onerror="globalThis.hacked = 1"></td></tr></tbody></table><p>1 rows × 1 columns</p>`,
  );
  expect(found?.head).toEqual([
    [
      { text: "", isHeader: true, across: 1, down: 1 },
      { text: "a", isHeader: true, across: 100, down: 1 },
    ],
  ]);
  expect(found?.body[0]?.map(({ text }) => text)).toEqual(["0", "1"]);
  expect(found?.note).toBe("1 rows × 1 columns");
  expect((globalThis as Record<string, unknown>)["hacked"]).toBeUndefined();
  expect(tableIn("<p>no table</p>")).toBeNull();
  const long = tableIn(`<table>${"<tr><td>1</td></tr>".repeat(600)}</table>`);
  expect([long?.body.length, long?.cut]).toEqual([500, true]);
});

test("an image is only what is base64, and an SVG stays inside of its address", () => {
  expect(imageIn({ "image/png": "iVBO\nRw0=" })).toBe("data:image/png;base64,iVBORw0=");
  expect(imageIn({ "image/png": '"><script>' })).toBeNull();
  expect(imageIn({ "image/svg+xml": '<svg onload="x"/>' })).toBe(
    "data:image/svg+xml;charset=utf-8,%3Csvg%20onload%3D%22x%22%2F%3E",
  );
  expect(imageIn({ "text/plain": "x" })).toBeNull();
});

const cell = (id: string, more: Partial<Cell> = {}): Cell => ({ ...newCell(), id, ...more });
const ids = (cells: readonly Cell[]): string => cells.map(({ id }) => id).join("");

test("cells are added behind one, moved, and never all gone", () => {
  const cells = [cell("a"), cell("b"), cell("c")];
  expect(ids(addAfter(cells, "a", cell("x")))).toBe("axbc");
  expect(ids(addAfter(cells, null, cell("x")))).toBe("abcx");
  expect(ids(move(cells, "b", -1))).toBe("bac");
  expect(ids(move(cells, "c", 1))).toBe("abc");
  expect(remove([cell("a")], "a")).toHaveLength(1);
  expect(ids(remove([cell("a")], "a"))).not.toBe("a");
});

test("a run's id is one that Bay takes", () => {
  expect(newRunId()).toMatch(/^cell-[0-9a-f]{24}$/);
  expect(newRunId()).not.toBe(newRunId());
});

test("what is kept comes back whole, and the longest outputs are left out first when it is too much", () => {
  const text = (length: number): Ran => ({
    ...NOT_RUN,
    state: "ok",
    outputs: [{ kind: "text", stream: "stdout", text: "x".repeat(length) }],
  });
  const small = [cell("a", { code: "1", ran: text(10) }), cell("b", { code: "2", runId: newRunId() })];
  expect(restored(kept(small))).toEqual(small);
  const large = [cell("a", { code: "1", ran: text(10) }), cell("b", { code: "2", ran: text(KEPT_LENGTH) })];
  const [first, second] = restored(kept(large));
  expect(first).toEqual(large[0]);
  expect(second).toMatchObject({ code: "2", ran: { outputs: [], cut: true } });
  expect(kept([cell("a", { code: "x".repeat(KEPT_LENGTH + 1) })])).toBeNull();
});

test("what is no notebook is an empty one", () => {
  for (const text of [null, "", "{", "3", '[1, null, {"id": 3}]', '{"a": 1}'])
    expect(restored(text)).toHaveLength(1);
  const [odd] = restored(
    '[{"id": "a", "code": "1", "ran": {"outputs": [3, {"kind": "text"}, {"kind": "bundle", "data": null}]}}]',
  );
  expect(odd?.ran.outputs).toEqual([]);
});

test("a table is found without its styles and handlers, and its text stays as it is", () => {
  const found = tableIn(
    '<STYLE scoped>p{}</STYLE><table style="a"><tr><td onclick="b" colspan="2">a style=1 <b style=c>&lt;style</b></td></tr></table>',
  );
  expect(found?.body).toEqual([[{ text: "a style=1 <style", isHeader: false, across: 2, down: 1 }]]);
  expect(tableIn("<table><tr><td>before<style>x")?.body[0]?.[0]?.text).toBe("before");
});

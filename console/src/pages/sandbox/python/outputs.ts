/** What a cell gave, built event by event as a notebook shows it. Its text is bounded: the newest part stays. */

import type { CellEvent } from "bay-sandbox";

export type Bundle = Readonly<Record<string, unknown>>;

export type Output =
  | { kind: "text"; stream: "stdout" | "stderr"; text: string }
  | { kind: "bundle"; data: Bundle; displayId: string | null; isResult: boolean }
  | { kind: "error"; name: string; value: string; traceback: string };

export type CellState = "new" | "queued" | "running" | "ok" | "error" | "timeout" | "interrupted" | "lost";

export interface Ran {
  readonly state: CellState;
  readonly outputs: readonly Output[];
  readonly count: number | null;
  readonly durationMs: number | null;
  /** Why it ended, when that is no exception of its own. */
  readonly message: string | null;
  /** Whether the oldest text is left out, or Bay left some out. */
  readonly cut: boolean;
  /** The next thing that is shown takes the place of all before. */
  readonly clearNext: boolean;
}

export const NOT_RUN: Ran = {
  state: "new",
  outputs: [],
  count: null,
  durationMs: null,
  message: null,
  cut: false,
  clearNext: false,
};

/** So many characters of printed text does a cell show, and so many outputs. */
export const MOST_TEXT = 200_000;
const MOST_OUTPUTS = 200;

export function take(ran: Ran, event: CellEvent): Ran {
  const count = event.execution_count ?? ran.count;
  switch (event.type) {
    case "start":
      return { ...ran, state: "running", count };
    case "clear":
      return event.wait ? { ...ran, clearNext: true } : { ...ran, outputs: [], clearNext: false };
    case "end":
      return {
        ...ran,
        count,
        state: event.status ?? "lost",
        message: event.message ?? null,
        durationMs: event.duration_ms ?? null,
        cut: ran.cut || event.truncated === true,
      };
    case "error":
      return add(ran, {
        kind: "error",
        name: event.ename ?? "",
        value: event.evalue ?? "",
        traceback: event.traceback?.join("\n") ?? "",
      });
    case "stdout":
    case "stderr":
      return addText(ran, event.type, event.text ?? "");
    case "display":
    case "result":
      if (event.update) return update(ran, event);
      return add(
        { ...ran, count },
        {
          kind: "bundle",
          data: event.data ?? {},
          displayId: event.display_id ?? null,
          isResult: event.type === "result",
        },
      );
  }
}

function begun(ran: Ran): readonly Output[] {
  return ran.clearNext ? [] : ran.outputs;
}

function add(ran: Ran, output: Output): Ran {
  const outputs = [...begun(ran), output];
  const isLong = outputs.length > MOST_OUTPUTS;
  return { ...ran, clearNext: false, cut: ran.cut || isLong, outputs: outputs.slice(-MOST_OUTPUTS) };
}

function addText(ran: Ran, stream: "stdout" | "stderr", text: string): Ran {
  const before = begun(ran);
  const last = before.at(-1);
  if (last?.kind !== "text" || last.stream !== stream)
    return bounded(add(ran, { kind: "text", stream, text }));
  const joined: Output = { kind: "text", stream, text: last.text + text };
  return bounded({ ...ran, clearNext: false, outputs: [...before.slice(0, -1), joined] });
}

/** Leave out the oldest text, by whole lines where there are some. */
function bounded(ran: Ran): Ran {
  let over = -MOST_TEXT;
  for (const output of ran.outputs) if (output.kind === "text") over += output.text.length;
  if (over <= 0) return ran;
  const outputs = ran.outputs.flatMap((output): Output[] => {
    if (output.kind !== "text" || over <= 0) return [output];
    const line = output.text.indexOf("\n", over);
    const from = line >= 0 && line - over < 1_000 ? line + 1 : over;
    over -= output.text.length;
    return from < output.text.length ? [{ ...output, text: output.text.slice(from) }] : [];
  });
  return { ...ran, outputs, cut: true };
}

function update(ran: Ran, event: CellEvent): Ran {
  const outputs = ran.outputs.map((output) =>
    output.kind === "bundle" && output.displayId !== null && output.displayId === event.display_id
      ? { ...output, data: event.data ?? {} }
      : output,
  );
  return { ...ran, outputs };
}

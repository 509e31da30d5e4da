/** What a cell gave. All of it is hostile: text, tables made of text, and images are shown, and nothing else. */

import { type ReactNode, useMemo } from "react";
import { useWords } from "@/lib/words";
import { cx } from "@/ui/class_names";
import { imageIn } from "./images";
import type { Bundle, Output } from "./outputs";
import { type FoundTable, type TableCell, tableIn } from "./tables";
import { terminalText } from "./terminal_text";
import { pythonWords } from "./words";

const TEXT =
  "max-h-[32rem] overflow-auto px-3 py-2 text-[13px] leading-relaxed break-words whitespace-pre-wrap";

export function Shown({ output, number }: { output: Output; number: number }): ReactNode {
  switch (output.kind) {
    case "text":
      return <Text text={output.text} className={output.stream === "stderr" ? "bg-warn-soft" : ""} />;
    case "error":
      return (
        <Text
          text={output.traceback || `${output.name}: ${output.value}`}
          className="border-l-2 border-bad bg-bad-soft text-bad"
        />
      );
    case "bundle":
      return <Shows data={output.data} number={number} />;
  }
}

function Text({ text, className }: { text: string; className: string }): ReactNode {
  const shown = useMemo(() => terminalText(text), [text]);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is reached by keyboard
    <pre tabIndex={0} className={cx(TEXT, className)}>
      {shown}
    </pre>
  );
}

/** The richest form of a value that is safe and known here. */
function Shows({ data, number }: { data: Bundle; number: number }): ReactNode {
  const say = useWords(pythonWords);
  const html = data["text/html"];
  const image = useMemo(() => imageIn(data), [data]);
  const table = useMemo(() => (typeof html === "string" ? tableIn(html) : null), [html]);
  if (image !== null)
    return (
      <div className="overflow-x-auto p-3">
        <img src={image} alt={say("image", { number })} className="max-w-full rounded bg-white" />
      </div>
    );
  if (table !== null) return <Table table={table} />;
  const plain = data["text/plain"];
  if (typeof plain === "string") return <Text text={plain} className="" />;
  return <Text text={JSON.stringify(Object.values(data)[0] ?? null, null, 2)} className="" />;
}

function Table({ table }: { table: FoundTable }): ReactNode {
  const say = useWords(pythonWords);
  const rows = (given: TableCell[][]): ReactNode =>
    given.map((cells, row) => (
      // biome-ignore lint/suspicious/noArrayIndexKey: a row has nothing else that tells it apart
      <tr key={row} className="even:bg-raised/60">
        {cells.map((cell, at) => {
          const Part = cell.isHeader ? "th" : "td";
          return (
            <Part
              // biome-ignore lint/suspicious/noArrayIndexKey: nor has a cell
              key={at}
              colSpan={cell.across}
              rowSpan={cell.down}
              className={cx("px-2.5 py-1 text-right whitespace-nowrap", cell.isHeader && "font-semibold")}
            >
              {cell.text}
            </Part>
          );
        })}
      </tr>
    ));
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is reached by keyboard
    <div tabIndex={0} className="max-h-[32rem] overflow-auto px-3 py-2">
      <table className="border-collapse text-[13px] tabular-nums">
        <thead className="border-b-2">{rows(table.head)}</thead>
        <tbody>{rows(table.body)}</tbody>
      </table>
      {table.note || table.cut ? (
        <p className="pt-1.5 text-xs text-muted">
          {[table.note, table.cut ? say("tableCut") : ""].filter(Boolean).join(" · ")}
        </p>
      ) : null}
    </div>
  );
}

/** A table of values. Rows that are out of sight are not made. */

import { useVirtualizer } from "@tanstack/react-virtual";
import { type ReactNode, useMemo, useRef } from "react";
import { count } from "@/lib/format";
import { useWords } from "@/lib/words";
import { piecesOf } from "../paths";
import { filesWords } from "../words";
import { parseTable, separatorOf } from "./csv";

const MOST_ROWS = 100_000;
const MOST_COLUMNS = 200;
const LOOKED_AT = 200;
const ROW_PX = 30;
const SIGN_PX = 7.6;
const NUMBER = /^-?[\d.,\s]+%?$/;

function widths(rows: string[][], columns: number): number[] {
  return Array.from({ length: columns }, (_, column) => {
    const longest = rows
      .slice(0, LOOKED_AT)
      .reduce((most, row) => Math.max(most, row[column]?.length ?? 0), 0);
    return Math.min(360, Math.max(64, longest * SIGN_PX + 26));
  });
}

function shown(value: string): string {
  return piecesOf(value.slice(0, 500))
    .map((piece) => piece.text)
    .join("");
}

export default function Table({ text, isTabs }: { text: string; isTabs: boolean }): ReactNode {
  const say = useWords(filesWords);
  const { rows, isCut } = useMemo(
    () => parseTable(text, isTabs ? "\t" : separatorOf(text), MOST_ROWS),
    [text, isTabs],
  );
  const place = useRef<HTMLDivElement>(null);
  const [head = [], ...body] = rows;
  const columns = Math.min(
    MOST_COLUMNS,
    rows.slice(0, LOOKED_AT).reduce((most, row) => Math.max(most, row.length), 0),
  );
  const sizes = useMemo(() => widths(rows, columns), [rows, columns]);
  const grid = { gridTemplateColumns: `3.5rem ${sizes.map((size) => `${size}px`).join(" ")}` };
  const numbers = sizes.map((_, column) =>
    body.slice(0, 20).every((row) => NUMBER.test(row[column] ?? "") || !row[column]),
  );
  const virtual = useVirtualizer({
    count: body.length,
    getScrollElement: () => place.current,
    estimateSize: () => ROW_PX,
    overscan: 20,
  });
  const cells = (row: string[]): ReactNode[] =>
    sizes.map((_, column) => (
      <td
        // biome-ignore lint/suspicious/noArrayIndexKey: columns never change their places
        key={column}
        title={shown(row[column] ?? "")}
        className={`truncate border-r px-2.5 leading-[29px] ${numbers[column] ? "text-right tabular-nums" : ""}`}
      >
        {shown(row[column] ?? "")}
      </td>
    ));
  return (
    <div className="flex h-full flex-col">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is reached by keyboard */}
      <div ref={place} tabIndex={0} className="min-h-0 flex-1 overflow-auto">
        <table className="block w-max min-w-full text-sm" aria-rowcount={rows.length}>
          <thead className="sticky top-0 z-10 block bg-raised">
            <tr className="grid border-b" style={grid}>
              <td className="border-r" />
              {sizes.map((_, column) => (
                <th
                  // biome-ignore lint/suspicious/noArrayIndexKey: columns never change their places
                  key={column}
                  scope="col"
                  title={shown(head[column] ?? "")}
                  className={`truncate border-r px-2.5 py-1 font-semibold ${numbers[column] ? "text-right" : "text-left"}`}
                >
                  {shown(head[column] ?? "")}
                </th>
              ))}
            </tr>
          </thead>
          <tbody className="relative block" style={{ height: virtual.getTotalSize() }}>
            {virtual.getVirtualItems().map((row) => (
              <tr
                key={row.key}
                aria-rowindex={row.index + 2}
                className="absolute top-0 left-0 grid border-b hover:bg-raised"
                style={{ ...grid, height: row.size, transform: `translateY(${row.start}px)` }}
              >
                <th
                  scope="row"
                  className="border-r px-2 text-right text-xs leading-[29px] font-normal text-muted"
                >
                  {row.index + 1}
                </th>
                {cells(body[row.index] ?? [])}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p className="border-t px-4 py-1.5 text-xs text-muted">
        {isCut ? say("rowsCut", { number: count(MOST_ROWS) }) : say("rows", { count: body.length })}
      </p>
    </div>
  );
}

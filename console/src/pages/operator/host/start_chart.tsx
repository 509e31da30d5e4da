import type { HostOverview } from "bay-sandbox";
import type { ReactNode } from "react";
import { count, duration } from "@/lib/format";
import { useWords } from "@/lib/words";
import { Meter } from "@/ui/meter";
import { Panel } from "@/ui/panel";
import { type Column, columnsOf } from "./shares";
import { hostWords } from "./words";

const HEIGHT = 110;
const SLOT = 48;
const GAP = 6;
const TOP = 16;
const BOTTOM = 18;

/** How long starts took: columns for the eye, and the same as a table. */
export function StartChart({ host }: { host: HostOverview }): ReactNode {
  const say = useWords(hostWords);
  const { starts, pool_hits: hits, pool_misses: misses } = host;
  const columns = columnsOf(starts);
  const bound = (column: Column): string =>
    column.upTo === null
      ? say("longer", { time: duration(column.from) })
      : say("upTo", { time: duration(column.upTo) });
  return (
    <Panel title={say("starts")}>
      <div className="grid gap-4 p-4">
        {columns.length ? (
          <figure>
            <figcaption className="text-sm text-muted">
              {say("startsAbout", {
                number: count(starts.count),
                mean: duration(starts.count ? starts.sum_s / starts.count : 0),
              })}
              <span className="mt-0.5 block text-xs">{say("startsAre")}</span>
            </figcaption>
            <svg
              role="img"
              aria-label={say("startsOf")}
              viewBox={`0 0 ${columns.length * SLOT} ${TOP + HEIGHT + BOTTOM}`}
              className="mt-2 max-h-48 w-full"
            >
              <title>{say("startsOf")}</title>
              {columns.map((column, at) => {
                const height = Math.max(column.number ? 2 : 0, column.height * HEIGHT);
                const middle = at * SLOT + SLOT / 2;
                return (
                  <g key={column.upTo ?? "longer"}>
                    <rect
                      x={at * SLOT + GAP / 2}
                      y={TOP + HEIGHT - height}
                      width={SLOT - GAP}
                      height={height}
                      rx="3"
                      fill="var(--color-accent)"
                    />
                    <text
                      x={middle}
                      y={TOP + HEIGHT - height - 4}
                      textAnchor="middle"
                      fontSize="9"
                      fill="var(--color-ink)"
                    >
                      {column.number ? count(column.number) : ""}
                    </text>
                    <text
                      x={middle}
                      y={TOP + HEIGHT + 13}
                      textAnchor="middle"
                      fontSize="9"
                      fill="var(--color-muted)"
                    >
                      {column.upTo === null ? `> ${duration(column.from)}` : `≤ ${duration(column.upTo)}`}
                    </text>
                  </g>
                );
              })}
            </svg>
            <details className="mt-2 text-sm">
              <summary className="cursor-pointer text-xs text-muted">{say("table")}</summary>
              <table className="mt-2 w-full text-left text-sm tabular-nums">
                <thead className="text-xs text-muted">
                  <tr>
                    <th className="py-1 font-medium">{say("took")}</th>
                    <th className="py-1 text-right font-medium">{say("number")}</th>
                  </tr>
                </thead>
                <tbody>
                  {columns.map((column) => (
                    <tr key={column.upTo ?? "longer"} className="border-t">
                      <td className="py-1">{bound(column)}</td>
                      <td className="py-1 text-right">{count(column.number)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </details>
          </figure>
        ) : (
          <p className="text-sm text-muted">{say("noStarts")}</p>
        )}
        {hits + misses ? (
          <Meter
            calm
            name={say("pool")}
            value={hits}
            most={hits + misses}
            words={say("poolOf", { hits: count(hits), all: count(hits + misses) })}
          />
        ) : (
          <p className="text-sm text-muted">{say("noCreates")}</p>
        )}
      </div>
    </Panel>
  );
}

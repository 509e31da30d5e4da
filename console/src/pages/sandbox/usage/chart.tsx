import { type ReactNode, useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useTheme } from "@/lib/theme";
import type { Columns } from "./series";

const HEIGHT_PX = 150;
/** Steps of an axis of bytes, so that its numbers are whole in their units. */
const BINARY_STEPS = Array.from({ length: 50 }, (_, power) => 2 ** power);
const STROKES = ["--color-accent", "--color-warn"] as const;

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** One chart over time. Its numbers are beside it as text: the picture alone is for eyes. */
export function Chart({
  names,
  data,
  from,
  to,
  isBytes,
  show,
}: {
  names: readonly string[];
  data: Columns;
  /** Seconds since 1970. */
  from: number;
  to: number;
  isBytes: boolean;
  show(value: number): string;
}): ReactNode {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const theme = useTheme();
  const latestShow = useRef(show);
  latestShow.current = show;
  const range = useRef<[number, number]>([from, to]);
  range.current = [from, to];
  const labels = names.join("\n");

  // biome-ignore lint/correctness/useExhaustiveDependencies: the colours are those of the theme
  useEffect(() => {
    const at = place.current;
    if (at === null) return;
    const grid = { stroke: colour("--color-line"), width: 1 };
    const axis = { stroke: colour("--color-muted"), font: "11px system-ui", grid, ticks: grid };
    const made = new uPlot(
      {
        width: Math.max(1, at.clientWidth),
        height: HEIGHT_PX,
        padding: [8, 20, 0, 0],
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { size: 7 } },
        scales: {
          x: { time: true, range: () => range.current },
          y: { range: (_, __, most) => [0, most > 0 ? most * 1.15 : 1] },
        },
        axes: [
          { ...axis, size: 28 },
          {
            ...axis,
            size: 76,
            ...(isBytes ? { incrs: BINARY_STEPS } : {}),
            values: (_, ticks) => ticks.map((tick) => latestShow.current(tick)),
          },
        ],
        series: [
          {},
          ...labels.split("\n").map((label, index) => {
            const stroke = colour(STROKES[index % STROKES.length] ?? STROKES[0]);
            return {
              label,
              stroke,
              width: 1.5,
              fill: index === 0 ? `${stroke}22` : undefined,
              points: { show: false },
            };
          }),
        ] as uPlot.Series[],
      },
      [[], ...labels.split("\n").map(() => [])] as unknown as uPlot.AlignedData,
      at,
    );
    chart.current = made;
    const resized = new ResizeObserver(() =>
      made.setSize({ width: Math.max(1, at.clientWidth), height: HEIGHT_PX }),
    );
    resized.observe(at);
    return () => {
      resized.disconnect();
      made.destroy();
      chart.current = null;
    };
  }, [theme, labels, isBytes]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: a chart that was made anew has no data yet
  useEffect(() => {
    const made = chart.current;
    if (made === null) return;
    made.setData(data as uPlot.AlignedData);
  }, [data, from, to, theme, labels, isBytes]);

  return <div ref={place} aria-hidden className="min-w-0" />;
}

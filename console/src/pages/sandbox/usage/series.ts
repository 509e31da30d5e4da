/** Points of the API as the columns of a chart. */

import type { components } from "bay-sandbox";

export type Point = components["schemas"]["MetricsPoint"];

/** What is drawn in one chart: rates are by second. */
export interface Line {
  name: string;
  value(point: Point): number | null | undefined;
}

/** Seconds since 1970, and the values of each line there; null where there is nothing to draw. */
export type Columns = [number[], ...(number | null)[][]];

/** A step without a point is a gap: the sandbox did not run then, and no line goes over it. */
export function columns(points: readonly Point[], step: number, lines: readonly Line[]): Columns {
  const times: number[] = [];
  const values: (number | null)[][] = lines.map(() => []);
  let last: number | undefined;
  for (const point of points) {
    const at = Date.parse(point.at) / 1000;
    if (last !== undefined && at - last > step * 1.5) {
      times.push(last + step);
      for (const column of values) column.push(null);
    }
    times.push(at);
    lines.forEach(({ value }, index) => {
      values[index]?.push(value(point) ?? null);
    });
    last = at;
  }
  return [times, ...values];
}

export function rate(bytes: number | null | undefined, seconds: number): number | null {
  return bytes === null || bytes === undefined || seconds <= 0 ? null : bytes / seconds;
}

/** The last value of each line that there is, for people who cannot see the chart. */
export function latest([, ...values]: Columns): (number | null)[] {
  return values.map((column) => column.findLast((value) => value !== null) ?? null);
}

/** Whether the host seems to measure none of it: rates need two points, and here they have had them. */
export function isUnmeasured([times, ...values]: Columns): boolean {
  return times.length > 2 && values.every((column) => column.every((value) => value === null));
}

export function highest([, ...values]: Columns): number {
  return values.flat().reduce<number>((most, value) => Math.max(most, value ?? 0), 0);
}

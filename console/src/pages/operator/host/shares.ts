import type { HostOverview } from "bay-sandbox";

/** In the order of the bar: what costs most is first. */
export const COMPUTES = ["running", "warming", "warm", "hibernated", "cold"] as const;
export type Compute = (typeof COMPUTES)[number];

export interface Share {
  name: Compute;
  number: number;
  /** Of all, from 0 to 1. */
  part: number;
}

export function sharesOf({ by_compute, total }: HostOverview["sandboxes"]): Share[] {
  return COMPUTES.map((name) => {
    const number = by_compute[name] ?? 0;
    return { name, number, part: total ? number / total : 0 };
  });
}

export interface Column {
  /** Seconds; null is longer than all. */
  upTo: number | null;
  /** The bound before; 0 at the first. */
  from: number;
  number: number;
  /** Of the highest, from 0 to 1. */
  height: number;
}

/** The columns of the histogram, without the empty ones at both ends. */
export function columnsOf(starts: HostOverview["starts"]): Column[] {
  const most = Math.max(1, ...starts.buckets.map((bucket) => bucket.count));
  const all = starts.buckets.map((bucket, at) => ({
    upTo: bucket.le_s,
    from: starts.buckets[at - 1]?.le_s ?? 0,
    number: bucket.count,
    height: bucket.count / most,
  }));
  const first = all.findIndex((column) => column.number > 0);
  return first < 0 ? [] : all.slice(first, all.findLastIndex((column) => column.number > 0) + 1);
}

/** The newest `most` of the values, with one more. */
export function later(before: readonly number[], value: number, most: number): number[] {
  return [...before, value].slice(-most);
}

/** The points of a line through values, `width` by `height`, of which the highest is at least `least`. */
export function pointsOf(values: readonly number[], width: number, height: number, least: number): string {
  const top = Math.max(least, ...values);
  const step = values.length > 1 ? width / (values.length - 1) : 0;
  return values
    .map((value, at) => `${(at * step).toFixed(1)},${(height - (value / top) * height).toFixed(1)}`)
    .join(" ");
}

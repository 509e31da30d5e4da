/** Numbers and moments as people read them, in the language of the page. */

import { language } from "./words";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;
const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
  ["second", 1],
];

/** Such as "3.4 MiB". */
export function bytes(value: number): string {
  let size = value;
  let unit = 0;
  while (Math.abs(size) >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(size) >= 100 ? 0 : 1;
  return `${size.toLocaleString(language(), { maximumFractionDigits: digits })} ${UNITS[unit]}`;
}

export function count(value: number): string {
  return value.toLocaleString(language());
}

/** Such as "5 minutes ago" or "in 2 hours". */
export function ago(at: string | Date, now = Date.now()): string {
  const seconds = (new Date(at).getTime() - now) / 1000;
  const [unit, size] = STEPS.find(([, each]) => Math.abs(seconds) >= each) ?? ["second", 1];
  return new Intl.RelativeTimeFormat(language(), { numeric: "auto" }).format(
    Math.trunc(seconds / size),
    unit,
  );
}

/** The whole moment, in the browser's zone. */
export function moment(at: string | Date): string {
  return new Date(at).toLocaleString(language(), { dateStyle: "medium", timeStyle: "medium" });
}

/** Such as "340 ms", "2.5 s", "3 min 4 s" or "1 h 5 min", and "30 min" where nothing is over. */
export function duration(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toLocaleString(language(), { maximumFractionDigits: 1 })} s`;
  const [size, unit, less, lesser] =
    seconds < 3600
      ? ([60, "min", 1, "s"] as const)
      : seconds < 86_400
        ? ([3600, "h", 60, "min"] as const)
        : ([86_400, "d", 3600, "h"] as const);
  const rest = Math.floor((seconds % size) / less);
  return `${Math.floor(seconds / size)} ${unit}${rest ? ` ${rest} ${lesser}` : ""}`;
}

import type { ReactNode } from "react";
import { cx } from "./class_names";

const WARN = 0.8;
const BAD = 0.92;

/** How much of something is in use, as a bar with its words. */
export function Meter({
  name,
  value,
  most,
  words,
  calm = false,
}: {
  name: string;
  value: number;
  most: number;
  words: string;
  /** A full one is good, such as a pool. */
  calm?: boolean;
}): ReactNode {
  const part = most > 0 ? Math.min(1, Math.max(0, value / most)) : 0;
  const tone = calm || part < WARN ? "bg-accent" : part < BAD ? "bg-warn" : "bg-bad";
  return (
    <div className="min-w-0">
      <div className="mb-1.5 flex flex-wrap items-baseline justify-between gap-x-3 text-sm">
        <span className="text-muted">{name}</span>
        <span className="font-medium tabular-nums">{words}</span>
      </div>
      {/* biome-ignore lint/a11y/useSemanticElements: browsers draw <meter> each in their own colours */}
      <div
        role="meter"
        aria-label={name}
        aria-valuemin={0}
        aria-valuemax={most}
        aria-valuenow={Math.min(value, most)}
        aria-valuetext={words}
        className="h-2 overflow-hidden rounded-full bg-raised"
      >
        <div
          className={cx("h-full rounded-full transition-[width]", tone)}
          style={{ width: `${part * 100}%` }}
        />
      </div>
    </div>
  );
}

import { type ReactNode, useSyncExternalStore } from "react";
import { ago, moment } from "@/lib/format";

const EVERY_MS = 15_000;
const listeners = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | undefined;
let now = Date.now();

/** One clock for all of the page, which runs while something shows it. */
function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    now = Date.now();
    for (const each of listeners) each();
  }, EVERY_MS);
  return () => {
    listeners.delete(listener);
    if (listeners.size) return;
    clearInterval(timer);
    timer = undefined;
  };
}

/** How long ago something was or in how long it will be; the whole moment when it is pointed at. */
export function Moment({ at }: { at: string }): ReactNode {
  const clock = useSyncExternalStore(subscribe, () => now);
  return (
    <time dateTime={at} title={moment(at)}>
      {ago(at, Math.max(clock, Date.now()))}
    </time>
  );
}

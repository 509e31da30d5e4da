import type { HostOverview } from "bay-sandbox";
import type { ReactNode } from "react";
import { count } from "@/lib/format";
import { useWords } from "@/lib/words";
import { cx } from "@/ui/class_names";
import { Panel } from "@/ui/panel";
import { type Compute, sharesOf } from "./shares";
import { hostWords } from "./words";

const COLOURS: Record<Compute, string> = {
  running: "bg-good",
  warming: "bg-warn",
  warm: "bg-accent",
  hibernated: "bg-accent-soft",
  cold: "bg-strong-line",
};

/** All sandboxes as one bar of their states, with the numbers below it. */
export function StateBar({ sandboxes }: { sandboxes: HostOverview["sandboxes"] }): ReactNode {
  const say = useWords(hostWords);
  const shares = sharesOf(sandboxes);
  const statuses = Object.entries(sandboxes.by_status).sort(([, a], [, b]) => b - a);
  return (
    <Panel
      title={say("sandboxes")}
      acts={
        <span className="text-sm text-muted">{say("sandboxesAll", { number: count(sandboxes.total) })}</span>
      }
    >
      {sandboxes.total === 0 ? (
        <p className="p-4 text-sm text-muted">{say("noSandboxes")}</p>
      ) : (
        <div className="grid gap-4 p-4">
          <div
            role="img"
            aria-label={say("byState")}
            className="flex h-4 gap-0.5 overflow-hidden rounded-full bg-raised"
          >
            {shares
              .filter((share) => share.number)
              .map((share) => (
                <span
                  key={share.name}
                  className={cx("h-full min-w-1", COLOURS[share.name])}
                  style={{ width: `${share.part * 100}%` }}
                />
              ))}
          </div>
          <dl className="grid grid-cols-2 gap-3 sm:grid-cols-4">
            {shares.map((share) => (
              <div key={share.name}>
                <dt className="flex items-center gap-2 text-xs text-muted">
                  <span aria-hidden className={cx("size-2.5 rounded-sm", COLOURS[share.name])} />
                  {say(share.name)}
                </dt>
                <dd className="mt-0.5 text-lg font-semibold tabular-nums">{count(share.number)}</dd>
              </div>
            ))}
          </dl>
          <p className="flex flex-wrap gap-x-4 gap-y-1 border-t pt-3 text-xs text-muted">
            <span>{say("byStatus")}</span>
            {statuses.map(([status, number]) => (
              <span key={status}>
                <code>{status}</code> {count(number)}
              </span>
            ))}
          </p>
        </div>
      )}
    </Panel>
  );
}

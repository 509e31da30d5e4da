import { ArrowDown, ArrowUp, RotateCw, X } from "lucide-react";
import type { ReactNode } from "react";
import { bytes } from "@/lib/format";
import { useWords } from "@/lib/words";
import { Button, IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { shared } from "@/words";
import { Name } from "./name";
import { nameOf, plain } from "./paths";
import { type Transfer, transfers, useTransfers } from "./transfers";
import { filesWords } from "./words";

const SHOWN = 40;

/** Uploads and downloads of a sandbox, those that matter first. */
export function TransferList({ sandbox }: { sandbox: string }): ReactNode {
  const say = useWords(filesWords);
  const all = useTransfers(sandbox);
  if (all.length === 0) return null;
  const of = (state: Transfer["state"]): Transfer[] => all.filter((one) => one.state === state);
  const isBusy = all.some((one) => one.state === "running" || one.state === "waiting");
  const counted = all.filter((one) => one.state !== "cancelled");
  const failed = of("failed");
  const size = bytes(counted.reduce((sum, one) => sum + one.done, 0));
  const values = { done: of("done").length, all: counted.length, failed: failed.length, size };
  const shown = [
    ...of("running"),
    ...failed,
    ...of("waiting"),
    ...of("cancelled"),
    ...of("done").reverse(),
  ].slice(0, SHOWN);
  return (
    <section aria-label={say("transfers")} className="border-t bg-panel">
      <header className="flex flex-wrap items-center gap-2 border-b px-4 py-1.5">
        <h2 className="text-sm font-semibold">{say("transfers")}</h2>
        <p role="status" className="min-w-0 flex-1 truncate text-sm text-muted">
          {failed.length ? say("progressFailed", values) : say("progress", values)}
        </p>
        {isBusy ? (
          <Button kind="quiet" onClick={() => transfers.cancelAll(sandbox)}>
            {say("cancelAll")}
          </Button>
        ) : (
          <Button kind="quiet" onClick={() => transfers.clear(sandbox)}>
            {say("clear")}
          </Button>
        )}
      </header>
      <ul className="max-h-44 overflow-y-auto py-1">
        {shown.map((one) => (
          <Row key={one.number} transfer={one} />
        ))}
      </ul>
    </section>
  );
}

function Row({ transfer }: { transfer: Transfer }): ReactNode {
  const say = useWords(filesWords);
  const sayShared = useWords(shared);
  const { number, direction, path, state, done, total, error } = transfer;
  const isOver = state === "done" || state === "failed" || state === "cancelled";
  const text =
    state === "failed"
      ? error
      : state === "cancelled" || state === "waiting"
        ? say(state)
        : total === null || state === "done"
          ? bytes(done)
          : `${bytes(done)} / ${bytes(total)}`;
  return (
    <li className="flex min-h-9 items-center gap-3 px-4 text-sm">
      {direction === "up" ? (
        <ArrowUp aria-hidden className="size-4 shrink-0 text-muted" />
      ) : (
        <ArrowDown aria-hidden className="size-4 shrink-0 text-muted" />
      )}
      <span className="min-w-0 flex-1 truncate" title={plain(path)}>
        <Name text={nameOf(path)} />
      </span>
      {state === "running" ? (
        <progress
          aria-label={plain(nameOf(path))}
          className="h-1.5 w-24 shrink-0 appearance-none overflow-hidden rounded-full bg-raised sm:w-40 [&::-moz-progress-bar]:bg-accent [&::-webkit-progress-bar]:bg-raised [&::-webkit-progress-value]:bg-accent"
          {...(total === null ? {} : { value: total === 0 ? 1 : done, max: total || 1 })}
        />
      ) : null}
      <span
        className={cx(
          "max-w-[55%] shrink-0 text-right text-xs tabular-nums",
          state === "failed" ? "text-bad" : state === "done" ? "text-good" : "text-muted",
        )}
      >
        {text}
      </span>
      {state === "failed" || state === "cancelled" ? (
        <IconButton label={sayShared("again")} onClick={() => transfers.again(number)}>
          <RotateCw aria-hidden />
        </IconButton>
      ) : null}
      {isOver ? null : (
        <IconButton label={sayShared("cancel")} onClick={() => transfers.cancel(number)}>
          <X aria-hidden />
        </IconButton>
      )}
    </li>
  );
}

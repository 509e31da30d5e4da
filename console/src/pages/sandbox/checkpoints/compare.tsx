/** The files that differ between two checkpoints, or between one and the present files. */

import { useQuery } from "@tanstack/react-query";
import type { Checkpoint, FileChange, Sandbox } from "bay-sandbox";
import { FileDiff, Minus, Pencil, Plus, RefreshCw, Replace, X } from "lucide-react";
import { lazy, type ReactNode, Suspense, useState } from "react";
import { bay } from "@/bay";
import { bytes, count } from "@/lib/format";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { Dialog } from "@/ui/dialog";
import { Input, Select } from "@/ui/fields";
import { Panel } from "@/ui/panel";
import { Empty, Failed, Loading } from "@/ui/states";
import { shared } from "@/words";
import { Name } from "../files/name";
import { plain } from "../files/paths";
import { NOW } from "./graph";
import { nameOf } from "./timeline";
import { checkpointWords } from "./words";

const Lines = lazy(() => import("./lines"));

const MOST = 2000;

/** What is compared: the ids of two checkpoints, of which the second may be what is there now. */
export interface Compared {
  from: string;
  to: string;
}

const LOOKS = {
  added: { Icon: Plus, colour: "text-good" },
  removed: { Icon: Minus, colour: "text-bad" },
  changed: { Icon: Pencil, colour: "text-warn" },
  type_changed: { Icon: Replace, colour: "text-warn" },
} as const;

interface Found {
  changes: FileChange[];
  isCut: boolean;
}

async function found(id: string, { from, to }: Compared, signal: AbortSignal): Promise<Found> {
  const box = await bay.sandboxes.get(id, { signal });
  const changes: FileChange[] = [];
  for await (const change of box.diffCheckpoint(from, { ...(to === NOW ? {} : { to }), signal })) {
    if (changes.length === MOST) return { changes, isCut: true };
    changes.push(change);
  }
  return { changes, isCut: false };
}

export function Compare({
  box,
  all,
  compared,
  onChange,
}: {
  box: Sandbox;
  all: Checkpoint[];
  compared: Compared;
  onChange(compared: Compared | null): void;
}): ReactNode {
  const say = useWords(checkpointWords);
  const sayShared = useWords(shared);
  const [text, setText] = useState("");
  const [opened, setOpened] = useState<FileChange | null>(null);
  const { data, error, isFetching, refetch } = useQuery({
    queryKey: keys.of(box.id, "checkpoints", "diff", compared.from, compared.to),
    queryFn: ({ signal }) => found(box.id, compared, signal),
    // The present files go on; they are compared again when somebody looks again.
    staleTime: 0,
    refetchOnMount: "always",
  });
  const shown = (data?.changes ?? []).filter((one) => one.path.toLowerCase().includes(text.toLowerCase()));
  const of = (change: FileChange["change"]): number =>
    (data?.changes ?? []).filter((one) => one.change === change).length;
  const options = all.map((one) => (
    <option key={one.id} value={one.id}>
      {one.name ? `${one.name} (#${one.number})` : `#${one.number}`}
    </option>
  ));
  const chosen = all.find((one) => one.id === compared.from);
  return (
    <Panel
      title={say("differences")}
      acts={
        <>
          <IconButton label={say("again")} onClick={() => void refetch()}>
            <RefreshCw aria-hidden className={cx(isFetching && "animate-spin")} />
          </IconButton>
          <IconButton label={sayShared("close")} onClick={() => onChange(null)}>
            <X aria-hidden />
          </IconButton>
        </>
      }
    >
      <div className="flex flex-wrap items-center gap-2 border-b px-4 py-3 text-sm">
        <Select
          aria-label={say("compareFrom")}
          className="!w-auto max-w-full"
          value={compared.from}
          onChange={(event) => onChange({ ...compared, from: event.target.value })}
        >
          {options}
        </Select>
        <span aria-hidden className="text-muted">
          →
        </span>
        <Select
          aria-label={say("compareTo")}
          className="!w-auto max-w-full"
          value={compared.to}
          onChange={(event) => onChange({ ...compared, to: event.target.value })}
        >
          <option value={NOW}>{say("now")}</option>
          {options}
        </Select>
        {data?.changes.length ? (
          <>
            <p role="status" className="flex items-center gap-2 font-medium tabular-nums">
              <span className="text-good">+{count(of("added"))}</span>
              <span className="text-bad">−{count(of("removed"))}</span>
              <span className="text-warn">~{count(of("changed") + of("type_changed"))}</span>
            </p>
            <Input
              type="search"
              aria-label={say("filter")}
              placeholder={say("filter")}
              value={text}
              onChange={(event) => setText(event.target.value)}
              className="!w-auto min-w-32 flex-1"
            />
          </>
        ) : null}
      </div>
      {error ? <Failed error={error} retry={() => void refetch()} /> : null}
      {data === undefined ? (
        error ? null : (
          <Loading label={say("comparing")} />
        )
      ) : data.changes.length === 0 ? (
        <Empty icon={<FileDiff />} title={say("sameTitle")}>
          <p>{say("same")}</p>
        </Empty>
      ) : (
        <>
          <ul className="max-h-[60dvh] overflow-y-auto">
            {shown.map((one) => (
              <Change key={one.path} change={one} onOpen={() => setOpened(one)} />
            ))}
          </ul>
          <p className="border-t px-4 py-2 text-xs text-muted">
            {data.isCut ? `${say("cut", { number: count(MOST) })} ` : ""}
            {say("howCompared")}
          </p>
        </>
      )}
      <Dialog
        wide
        open={opened !== null}
        onOpenChange={() => setOpened(null)}
        title={plain(opened?.path ?? "")}
        about={say("linesAbout", {
          from: chosen ? nameOf(chosen) : compared.from,
          to:
            compared.to === NOW
              ? say("now")
              : nameOf(all.find((one) => one.id === compared.to) ?? { name: compared.to, number: 0 }),
        })}
      >
        {opened ? (
          <Suspense fallback={<Loading />}>
            <Lines box={box} change={opened} compared={compared} />
          </Suspense>
        ) : null}
      </Dialog>
    </Panel>
  );
}

function Change({ change, onOpen }: { change: FileChange; onOpen(): void }): ReactNode {
  const say = useWords(checkpointWords);
  const { Icon, colour } = LOOKS[change.change];
  const isFile = change.before?.type === "file" || change.after?.type === "file";
  const size = (version: FileChange["before"]): string =>
    version === null || version.size === null ? "" : bytes(version.size);
  const [before, after] = [size(change.before), size(change.after)];
  const about =
    change.change === "changed" && before === after
      ? change.before?.mode === change.after?.mode
        ? after
        : `${change.before?.mode} → ${change.after?.mode}`
      : [before, after].filter(Boolean).join(" → ");
  return (
    <li className="border-b last:border-b-0">
      <button
        type="button"
        disabled={!isFile}
        onClick={onOpen}
        className="flex w-full items-center gap-3 px-4 py-1.5 text-left text-sm enabled:hover:bg-raised"
      >
        <Icon aria-label={say(change.change)} className={cx("size-4 shrink-0", colour)} />
        <span
          className={cx(
            "min-w-0 flex-1 truncate font-mono text-xs",
            change.change === "removed" && "line-through",
          )}
          title={plain(change.path)}
        >
          <Name text={change.path} />
          {(change.after ?? change.before)?.type === "directory" ? "/" : ""}
        </span>
        <span className="shrink-0 text-xs text-muted tabular-nums">{about}</span>
      </button>
    </li>
  );
}

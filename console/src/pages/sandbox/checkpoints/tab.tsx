/** The checkpoints of a sandbox: which came from which, and what can be done with each. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { Checkpoint, Sandbox } from "bay-sandbox";
import {
  CloudUpload,
  Copy,
  EllipsisVertical,
  FileDiff,
  GitFork,
  History,
  Milestone,
  Plus,
  SquarePlus,
  Trash2,
} from "lucide-react";
import { type ReactNode, useState } from "react";
import { useNavigate, useSearchParams } from "react-router";
import { bay } from "@/bay";
import { bytes } from "@/lib/format";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { capabilitiesQuery } from "@/profiles";
import { mayWrite, useMe } from "@/sign_in";
import { Badge } from "@/ui/badge";
import { Button, IconButton } from "@/ui/button";
import { Menu } from "@/ui/menu";
import { Moment } from "@/ui/moment";
import { Panel } from "@/ui/panel";
import { Empty, Failed, Loading } from "@/ui/states";
import { tell, tellError } from "@/ui/toasts";
import { Compare, type Compared } from "./compare";
import { DeleteDialog, MakeDialog, RestoreDialog } from "./dialogs";
import ForkDialog from "./fork";
import { graphOf, NOW, pathOf } from "./graph";
import { Policy } from "./policy";
import { Remote } from "./remote";
import { checkpointsQuery, nameOf, remoteQuery } from "./timeline";
import { checkpointWords } from "./words";

const ROW_PX = 68;
const LANE_PX = 18;
const EDGE_PX = 20;
const DOT_PX = 5.5;
const LANES = [
  "var(--color-accent)",
  "var(--color-good)",
  "var(--color-warn)",
  "var(--color-bad)",
  "var(--color-idle)",
];

type Asked = { kind: "make" } | { kind: "restore" | "fork" | "delete"; one: Checkpoint } | null;

export default function CheckpointsTab({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(checkpointWords);
  const cache = useQueryClient();
  const may = mayWrite(useMe());
  const { data, error, refetch } = useQuery(checkpointsQuery(box.id));
  const remote = useQuery(remoteQuery(box.id)).data ?? null;
  const capabilities = useQuery(capabilitiesQuery).data;
  const [asked, setAsked] = useState<Asked>(null);
  const [query, setQuery] = useSearchParams();
  const from = query.get("from");
  const compared = from === null ? null : { from, to: query.get("to") ?? NOW };
  const compare = (wanted: Compared | null): void =>
    setQuery(wanted === null ? {} : { from: wanted.from, to: wanted.to }, { replace: true });
  const refresh = (): void => void cache.invalidateQueries({ queryKey: keys.of(box.id, "checkpoints") });
  const close = (): void => {
    setAsked(null);
    refresh();
  };
  const push = async (one: Checkpoint): Promise<void> => {
    try {
      const { key } = await (await bay.sandboxes.get(box.id)).pushCheckpoint(one);
      refresh();
      await bay.remoteCheckpoints.wait(key);
      tell(say("pushed", { name: nameOf(one) }));
    } catch (failure) {
      tellError(failure);
    }
    refresh();
  };
  if (capabilities?.checkpoints === null && !data?.length) {
    return (
      <Empty icon={<Milestone />} title={say("emptyTitle")}>
        <p>{say("unsupported")}</p>
      </Empty>
    );
  }
  const make = (
    <Button kind="primary" icon={<Plus aria-hidden />} onClick={() => setAsked({ kind: "make" })}>
      {say("make")}
    </Button>
  );
  return (
    <div className="grid items-start gap-4 p-4 xl:grid-cols-[minmax(0,1fr)_22rem]">
      <div className="grid min-w-0 gap-4">
        <Panel
          title={say("timeline")}
          acts={
            <>
              {data?.[0] ? (
                <Button
                  className="max-sm:hidden"
                  icon={<FileDiff aria-hidden />}
                  onClick={() =>
                    compare({ from: (data.find((one) => one.current) ?? data[0])?.id ?? "", to: NOW })
                  }
                >
                  {say("compare")}
                </Button>
              ) : null}
              {may ? make : null}
            </>
          }
        >
          {error ? <Failed error={error} retry={() => void refetch()} /> : null}
          {data === undefined ? (
            error ? null : (
              <Loading />
            )
          ) : data.length === 0 ? (
            <Empty icon={<Milestone />} title={say("emptyTitle")}>
              <p>{say("empty")}</p>
              {may ? make : <p>{say("emptyRead")}</p>}
            </Empty>
          ) : (
            <Timeline
              box={box}
              all={data}
              mayChange={may}
              hasStore={remote !== null}
              onAsk={setAsked}
              onPush={(one) => void push(one)}
              onCompare={compare}
            />
          )}
        </Panel>
        {compared && data?.length ? (
          <Compare box={box} all={data} compared={compared} onChange={compare} />
        ) : null}
      </div>
      <div className="grid gap-4">
        <Policy box={box} mayChange={may} />
        {remote ? <Remote box={box} all={remote} mayChange={may} onChange={refresh} /> : null}
      </div>
      {asked?.kind === "make" ? <MakeDialog box={box} onClose={close} /> : null}
      {asked?.kind === "restore" ? <RestoreDialog box={box} one={asked.one} onClose={close} /> : null}
      {asked?.kind === "fork" ? <ForkDialog box={box} one={asked.one} onClose={close} /> : null}
      {asked?.kind === "delete" ? <DeleteDialog box={box} one={asked.one} onClose={close} /> : null}
    </div>
  );
}

function Timeline({
  box,
  all,
  mayChange,
  hasStore,
  onAsk,
  onPush,
  onCompare,
}: {
  box: Sandbox;
  all: Checkpoint[];
  mayChange: boolean;
  hasStore: boolean;
  onAsk(asked: Asked): void;
  onPush(one: Checkpoint): void;
  onCompare(compared: Compared): void;
}): ReactNode {
  const say = useWords(checkpointWords);
  const names = new Map(all.map((one) => [one.id, nameOf(one)]));
  const current = all.find((one) => one.current);
  const graph = graphOf([
    { id: NOW, parent: current?.id ?? null },
    ...all.map((one) => ({ id: one.id, parent: one.parent_id })),
  ]);
  const laneX = (lane: number): number => EDGE_PX + lane * LANE_PX;
  const rowY = (row: number): number => row * ROW_PX + ROW_PX / 2;
  const colour = (lane: number): string => LANES[lane % LANES.length] ?? "currentColor";
  const width = EDGE_PX * 2 + (graph.width - 1) * LANE_PX;
  const shownWidth = Math.min(width, 140);
  return (
    <div className="relative">
      <svg
        aria-hidden="true"
        className="pointer-events-none absolute top-0 left-0"
        width={shownWidth}
        height={(all.length + 1) * ROW_PX}
        viewBox={`0 0 ${shownWidth} ${(all.length + 1) * ROW_PX}`}
      >
        {graph.edges.map((edge) => (
          <path
            key={`${edge.fromRow}-${edge.toRow}`}
            d={pathOf(edge, laneX, rowY)}
            fill="none"
            stroke={colour(edge.lane)}
            strokeWidth={2}
            strokeDasharray={edge.fromRow === 0 ? "3 4" : undefined}
          />
        ))}
        {graph.lanes.map((lane, row) => (
          <circle
            key={row === 0 ? NOW : all[row - 1]?.id}
            cx={laneX(lane)}
            cy={rowY(row)}
            r={DOT_PX}
            fill={row === 0 ? "var(--color-panel)" : colour(lane)}
            stroke={row === 0 ? colour(lane) : "var(--color-panel)"}
            strokeWidth={2}
          />
        ))}
      </svg>
      <ol>
        <li
          className="flex flex-col justify-center border-b pr-4"
          style={{ height: ROW_PX, paddingLeft: shownWidth }}
        >
          <p className="text-sm font-semibold">{say("now")}</p>
          <p className="truncate text-xs text-muted">
            {current ? say("nowFrom", { name: nameOf(current) }) : say("nowAbout")}
          </p>
        </li>
        {all.map((one) => (
          <Row
            key={one.id}
            box={box}
            one={one}
            parent={one.parent_id === null ? null : (names.get(one.parent_id) ?? null)}
            left={shownWidth}
            mayChange={mayChange}
            hasStore={hasStore}
            onAsk={onAsk}
            onPush={onPush}
            onCompare={onCompare}
          />
        ))}
      </ol>
    </div>
  );
}

function Row({
  one,
  parent,
  left,
  mayChange,
  hasStore,
  onAsk,
  onPush,
  onCompare,
}: {
  box: Sandbox;
  one: Checkpoint;
  parent: string | null;
  left: number;
  mayChange: boolean;
  hasStore: boolean;
  onAsk(asked: Asked): void;
  onPush(one: Checkpoint): void;
  onCompare(compared: Compared): void;
}): ReactNode {
  const say = useWords(checkpointWords);
  const go = useNavigate();
  const name = nameOf(one);
  const sizes =
    one.size_bytes === null
      ? ""
      : one.exclusive_bytes === null
        ? say("sizeOnly", { size: bytes(one.size_bytes) })
        : say("size", { size: bytes(one.size_bytes), own: bytes(one.exclusive_bytes) });
  return (
    <li
      className="flex items-center gap-2 border-b pr-2 last:border-b-0 hover:bg-raised/60"
      style={{ height: ROW_PX, paddingLeft: left }}
    >
      <div className="min-w-0 flex-1">
        <p className="flex min-w-0 items-center gap-2 text-sm">
          <span className="truncate font-medium">{name}</span>
          {one.name ? <span className="shrink-0 text-xs text-muted">#{one.number}</span> : null}
          {one.auto ? <Badge>{say("auto")}</Badge> : null}
          {one.kind === "memory" ? (
            <Badge>{say("memory", { size: bytes(one.memory_bytes ?? 0) })}</Badge>
          ) : null}
          {one.comment ? <span className="min-w-0 truncate text-muted">{one.comment}</span> : null}
        </p>
        <p className="truncate text-xs text-muted">
          <Moment at={one.created_at} />
          {sizes ? ` · ${sizes}` : ""}
          {parent === null ? null : <span className="sr-only"> · {say("from", { name: parent })}</span>}
          {one.current ? <span className="sr-only"> · {say("current")}</span> : null}
        </p>
      </div>
      <IconButton
        label={say("compareNow")}
        className="max-sm:hidden"
        onClick={() => onCompare({ from: one.id, to: NOW })}
      >
        <FileDiff aria-hidden />
      </IconButton>
      {mayChange ? (
        <>
          <Button
            className="max-sm:hidden"
            icon={<History aria-hidden />}
            onClick={() => onAsk({ kind: "restore", one })}
          >
            {say("restoreGo")}
          </Button>
          <Menu
            label={say("actsOf", { name })}
            trigger={
              <IconButton label={say("actsOf", { name })}>
                <EllipsisVertical aria-hidden />
              </IconButton>
            }
            items={[
              {
                label: say("restore"),
                icon: <History aria-hidden />,
                onSelect: () => onAsk({ kind: "restore", one }),
              },
              {
                label: say("fork"),
                icon: <GitFork aria-hidden />,
                onSelect: () => onAsk({ kind: "fork", one }),
              },
              {
                label: say("create"),
                icon: <SquarePlus aria-hidden />,
                onSelect: () => void go(`/console/sandboxes?new=1&checkpoint=${one.id}`),
              },
              hasStore && {
                label: say("push"),
                icon: <CloudUpload aria-hidden />,
                onSelect: () => onPush(one),
              },
              {
                label: say("copyId"),
                icon: <Copy aria-hidden />,
                onSelect: () => void navigator.clipboard?.writeText(one.id),
              },
              "line",
              {
                label: say("remove"),
                icon: <Trash2 aria-hidden />,
                danger: true,
                onSelect: () => onAsk({ kind: "delete", one }),
              },
            ]}
          />
        </>
      ) : null}
    </li>
  );
}

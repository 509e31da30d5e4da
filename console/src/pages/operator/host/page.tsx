/** The host behind the sandboxes: its load, memory and storage, what all owners have, and how starts go. */

import { useQuery } from "@tanstack/react-query";
import type { HostOverview } from "bay-sandbox";
import { Eraser } from "lucide-react";
import { type ReactNode, useEffect, useState } from "react";
import { bay } from "@/bay";
import { bytes, count, duration } from "@/lib/format";
import { language, useWords } from "@/lib/words";
import { keys } from "@/live";
import { Button } from "@/ui/button";
import { Meter } from "@/ui/meter";
import { PageFrame } from "@/ui/page_frame";
import { Fact, Panel } from "@/ui/panel";
import { Question } from "@/ui/question";
import { Answered } from "@/ui/states";
import { tell } from "@/ui/toasts";
import { later, pointsOf } from "./shares";
import { StartChart } from "./start_chart";
import { StateBar } from "./state_bar";
import { hostWords } from "./words";

/** No event says what a host does; it is read while it is looked at. */
const EVERY_MS = 5_000;
const KEPT = 60;

export default function HostPage(): ReactNode {
  const say = useWords(hostWords);
  const [asks, setAsks] = useState(false);
  const query = useQuery({
    queryKey: keys.nouns("host"),
    queryFn: ({ signal }) => bay.admin.host({ signal }),
    refetchInterval: EVERY_MS,
    staleTime: 0,
  });
  const { data, refetch, dataUpdatedAt } = query;
  const [loads, setLoads] = useState<number[]>([]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: each answer counts, also one that is the same
  useEffect(() => {
    const load = data?.load[0];
    if (load !== undefined) setLoads((before) => later(before, load, KEPT));
  }, [dataUpdatedAt]);
  return (
    <PageFrame
      title={say("title")}
      about={say("about")}
      acts={
        <Button icon={<Eraser aria-hidden />} onClick={() => setAsks(true)}>
          {say("collect")}
        </Button>
      }
    >
      <Answered query={query}>{(data) => <Overview host={data} loads={loads} />}</Answered>
      {asks ? (
        <Question
          title={say("collectTitle")}
          yes={say("collect")}
          onClose={() => setAsks(false)}
          act={async () => {
            const done = await bay.admin.collectGarbage();
            tell(say("collected", { count: done.total_cleaned }));
            await refetch();
          }}
        >
          <p>{say("collectAbout")}</p>
        </Question>
      ) : null}
    </PageFrame>
  );
}

function Overview({ host, loads }: { host: HostOverview; loads: readonly number[] }): ReactNode {
  const say = useWords(hostWords);
  const { memory, storage, sandboxes } = host;
  const used = memory.total_bytes - memory.available_bytes;
  return (
    <div className="grid gap-4 p-4">
      {host.replica ? (
        <p className="text-sm break-words text-muted">{say("replica", { id: host.replica })}</p>
      ) : null}
      <Panel>
        <dl className="grid grid-cols-2 gap-4 p-4 lg:grid-cols-4">
          <Fact name={say("version")}>
            <span className="text-lg font-semibold">{host.version}</span>
          </Fact>
          <Fact name={say("driver")}>
            <span className="text-lg font-semibold">{host.driver}</span>
          </Fact>
          <Fact name={say("up")}>
            <span className="text-lg font-semibold tabular-nums">{duration(host.uptime_s)}</span>
          </Fact>
          <Fact name={say("sessions")}>
            <span className="text-lg font-semibold tabular-nums">{count(sandboxes.sessions)}</span>
            {sandboxes.pooled ? (
              <span className="ml-2 text-xs text-muted">
                {say("sessionsAbout", { number: count(sandboxes.pooled) })}
              </span>
            ) : null}
          </Fact>
        </dl>
      </Panel>
      <div className="grid gap-4 lg:grid-cols-3">
        <Load host={host} loads={loads} />
        <Panel title={say("memory")}>
          <div className="grid gap-3 p-4">
            <Meter
              name={say("inUse")}
              value={used}
              most={memory.total_bytes}
              words={say("usedOf", { used: bytes(used), all: bytes(memory.total_bytes) })}
            />
            <p className="text-sm">{say("available", { size: bytes(memory.available_bytes) })}</p>
            <p className="text-xs text-muted">{say("reserve", { size: bytes(memory.reserve_bytes) })}</p>
          </div>
        </Panel>
        <Panel title={say("storage")}>
          {storage ? (
            <div className="grid gap-3 p-4">
              <Meter
                name={say("inUse")}
                value={storage.used_bytes}
                most={storage.total_bytes}
                words={say("usedOf", { used: bytes(storage.used_bytes), all: bytes(storage.total_bytes) })}
              />
              <p className="text-sm">{say("free", { size: bytes(storage.free_bytes) })}</p>
              <p className="text-xs text-muted">{say("backend", { name: storage.backend })}</p>
            </div>
          ) : (
            <p className="p-4 text-sm text-muted">{say("elsewhere")}</p>
          )}
        </Panel>
      </div>
      <div className="grid items-start gap-4 lg:grid-cols-2">
        <StateBar sandboxes={sandboxes} />
        <StartChart host={host} />
      </div>
    </div>
  );
}

const WIDTH = 240;
const HEIGHT = 48;

function Load({ host, loads }: { host: HostOverview; loads: readonly number[] }): ReactNode {
  const say = useWords(hostWords);
  const told = (value: number | undefined): string =>
    (value ?? 0).toLocaleString(language(), { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const [one = 0, five, fifteen] = host.load;
  const points = pointsOf(loads, WIDTH, HEIGHT, host.processors);
  return (
    <Panel title={say("load")}>
      <div className="grid gap-3 p-4">
        <Meter
          name={say("load1")}
          value={one}
          most={host.processors}
          words={say("loadOf", { load: told(one), cores: count(host.processors) })}
        />
        <p className="flex gap-x-4 text-xs text-muted">
          <span>
            {say("load5")} {told(five)}
          </span>
          <span>
            {say("load15")} {told(fifteen)}
          </span>
        </p>
        {loads.length > 1 ? (
          <svg
            role="img"
            aria-label={say("over")}
            viewBox={`0 -2 ${WIDTH} ${HEIGHT + 4}`}
            preserveAspectRatio="none"
            className="h-12 w-full text-accent"
          >
            <title>{say("over")}</title>
            <line x1="0" y1={HEIGHT} x2={WIDTH} y2={HEIGHT} stroke="var(--color-line)" />
            <polyline
              points={points}
              fill="none"
              stroke="currentColor"
              strokeWidth="1.5"
              vectorEffect="non-scaling-stroke"
            />
          </svg>
        ) : null}
      </div>
    </Panel>
  );
}

/** What a sandbox used, over time. */

import { useQuery } from "@tanstack/react-query";
import type { components, Sandbox } from "bay-sandbox";
import { ChartSpline } from "lucide-react";
import { type ReactNode, useMemo, useState } from "react";
import { bay } from "@/bay";
import { bytes } from "@/lib/format";
import { language, useWords } from "@/lib/words";
import { keys } from "@/live";
import { Select } from "@/ui/fields";
import { Panel } from "@/ui/panel";
import { Empty, Failed, Loading } from "@/ui/states";
import { Chart } from "./chart";
import { columns, isUnmeasured, type Line, latest, type Point, rate } from "./series";
import { usageWords } from "./words";

type Metrics = components["schemas"]["SandboxMetrics"];

const RANGES = { hour: 3_600, day: 86_400, month: 30 * 86_400 } as const;
type Range = keyof typeof RANGES;
const STEPS: Record<Range, number> = { hour: 10, day: 60, month: 900 };
const SHORTEST_MS = 300_000;
/** Samples come by the clock and make no events: so often they are looked at while they are on the screen. */
const LOOK_MS: Record<Range, number> = { hour: 10_000, day: 60_000, month: 300_000 };

export default function Charts({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(usageWords);
  const [range, setRange] = useState<Range>("hour");
  const { data, error, refetch } = useQuery({
    queryKey: keys.of(box.id, "metrics", range),
    queryFn: async ({ signal }) => {
      const to = new Date();
      // A new sandbox has nothing before it was made: its first minutes fill the chart.
      const begun = Math.min(Date.parse(box.created_at), to.getTime() - SHORTEST_MS);
      const from = new Date(Math.max(begun, to.getTime() - RANGES[range] * 1000));
      const path = `/v1/sandboxes/${box.id}/metrics`;
      const query = { from, to, step: STEPS[range] };
      const found = await bay.request<Metrics>({ method: "GET", path, query, safe: true, signal });
      return { ...found, from: from.getTime() / 1000, to: to.getTime() / 1000 };
    },
    refetchInterval: box.compute === "running" ? LOOK_MS[range] : false,
    placeholderData: (before) => before,
  });
  const number = (value: number): string => value.toLocaleString(language(), { maximumSignificantDigits: 2 });
  const perSecond = (value: number): string => say("perSecond", { size: bytes(value) });
  const charts: {
    name: "cpu" | "memory" | "network" | "disk" | "execs";
    isBytes?: boolean;
    show(value: number): string;
    lines: Line[];
  }[] = [
    {
      name: "cpu",
      show: (value) => say("cores", { number: number(value) }),
      lines: [
        { name: say("used"), value: (point) => point.cpus_used },
        { name: say("most"), value: (point) => point.cpus_max },
      ],
    },
    {
      name: "memory",
      isBytes: true,
      show: bytes,
      lines: [
        { name: say("used"), value: (point) => point.memory_bytes },
        { name: say("most"), value: (point) => point.memory_max_bytes },
      ],
    },
    {
      name: "network",
      isBytes: true,
      show: perSecond,
      lines: [
        { name: say("received"), value: (point) => rate(point.received_bytes, point.seconds) },
        { name: say("sent"), value: (point) => rate(point.sent_bytes, point.seconds) },
      ],
    },
    {
      name: "disk",
      isBytes: true,
      show: perSecond,
      lines: [
        { name: say("read"), value: (point) => rate(point.read_bytes, point.seconds) },
        { name: say("written"), value: (point) => rate(point.written_bytes, point.seconds) },
      ],
    },
    { name: "execs", show: number, lines: [{ name: say("running"), value: (point) => point.execs }] },
  ];
  const files = data?.points.findLast((point) => point.disk_bytes !== null)?.disk_bytes;
  return (
    <Panel
      title={say("title")}
      acts={
        <>
          {files === null || files === undefined ? null : (
            <span className="text-xs text-muted">{say("files", { size: bytes(files) })}</span>
          )}
          <Select
            aria-label={say("range")}
            className="!w-auto"
            value={range}
            onChange={(event) => setRange(event.target.value as Range)}
          >
            {(Object.keys(RANGES) as Range[]).map((name) => (
              <option key={name} value={name}>
                {say(name)}
              </option>
            ))}
          </Select>
        </>
      }
    >
      {error ? <Failed error={error} retry={() => void refetch()} /> : null}
      {data === undefined ? (
        error ? null : (
          <Loading />
        )
      ) : data.points.length === 0 ? (
        <Empty icon={<ChartSpline />} title={say("none")}>
          <p>{say("noneAbout")}</p>
        </Empty>
      ) : (
        <div className="grid gap-x-6 gap-y-4 p-4 md:grid-cols-2">
          {charts.map(({ name, isBytes = false, show, lines }) => (
            <One
              key={name}
              title={say(name)}
              points={data.points}
              step={data.step}
              from={data.from}
              to={data.to}
              lines={lines}
              isBytes={isBytes}
              show={show}
            />
          ))}
        </div>
      )}
    </Panel>
  );
}

function One({
  title,
  points,
  step,
  from,
  to,
  lines,
  isBytes,
  show,
}: {
  title: string;
  points: readonly Point[];
  step: number;
  from: number;
  to: number;
  lines: Line[];
  isBytes: boolean;
  show(value: number): string;
}): ReactNode {
  const say = useWords(usageWords);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the lines are the same in each render
  const data = useMemo(() => columns(points, step, lines), [points, step]);
  const now = latest(data);
  return (
    <figure className="min-w-0">
      <figcaption className="mb-1 flex flex-wrap items-baseline gap-x-3 text-sm">
        <span className="font-medium">{title}</span>
        {lines.map((line, index) => {
          const value = now[index];
          return (
            <span key={line.name} className={index === 0 ? "text-xs text-accent" : "text-xs text-warn"}>
              {say("now", {
                name: line.name,
                value: value === null || value === undefined ? "–" : show(value),
              })}
            </span>
          );
        })}
      </figcaption>
      {isUnmeasured(data) ? (
        <p className="grid h-[150px] place-content-center rounded-lg bg-page text-sm text-muted">
          {say("unmeasured")}
        </p>
      ) : (
        <Chart
          names={lines.map((line) => line.name)}
          data={data}
          from={from}
          to={to}
          isBytes={isBytes}
          show={show}
        />
      )}
    </figure>
  );
}

/** All that happened to a sandbox, newest first. */

import { useQuery } from "@tanstack/react-query";
import type { Event, Sandbox } from "bay-sandbox";
import { History } from "lucide-react";
import { type ReactNode, useMemo, useState } from "react";
import { bay } from "@/bay";
import { useWords } from "@/lib/words";
import { keys, useLive } from "@/live";
import { Badge, type Tone } from "@/ui/badge";
import { Button } from "@/ui/button";
import { Select } from "@/ui/fields";
import { Moment } from "@/ui/moment";
import { Panel } from "@/ui/panel";
import { Empty, Failed, Loading } from "@/ui/states";
import { eventWords } from "./words";

const STEP = 100;

export default function Events({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(eventWords);
  const { recent } = useLive();
  const [most, setMost] = useState(STEP);
  const [kind, setKind] = useState("");
  const { data, error, refetch } = useQuery({
    // Not by a noun that events refresh: what comes later is in `recent` already.
    queryKey: keys.of(box.id, "past"),
    queryFn: async ({ signal }) => {
      const found: Event[] = [];
      for await (const event of bay.events({ sandbox: box.id, follow: false, signal })) found.push(event);
      return found;
    },
  });
  const all = useMemo(() => {
    const known = new Set(data?.map((event) => event.id));
    const later = recent.filter((event) => event.sandbox_id === box.id && !known.has(event.id));
    return [...(data ?? []), ...later].reverse();
  }, [data, recent, box.id]);
  const types = useMemo(() => [...new Set(all.map((event) => event.type))].sort(), [all]);
  if (error) return <Failed error={error} retry={() => void refetch()} />;
  if (data === undefined) return <Loading />;
  if (all.length === 0)
    return (
      <Empty icon={<History />} title={say("none")}>
        <p>{say("noneAbout")}</p>
      </Empty>
    );
  const wanted = kind === "" ? all : all.filter((event) => event.type === kind);
  return (
    <div className="p-4">
      <Panel
        title={say("title")}
        acts={
          <Select
            aria-label={say("type")}
            value={kind}
            onChange={(event) => setKind(event.target.value)}
            className="!w-auto"
          >
            <option value="">{say("all")}</option>
            {types.map((type) => (
              <option key={type}>{type}</option>
            ))}
          </Select>
        }
      >
        <ol>
          {wanted.slice(0, most).map((event) => (
            <li
              key={event.id}
              className="flex flex-wrap items-baseline gap-x-4 gap-y-1 border-t px-4 py-2 text-sm first:border-t-0"
            >
              <Badge tone={toneOf(event.type)}>{event.type}</Badge>
              <span className="min-w-0 flex-1 font-mono text-xs break-words text-muted">
                {factsOf(event)}
              </span>
              <span className="text-xs text-muted">
                <Moment at={event.at} />
              </span>
            </li>
          ))}
        </ol>
        {wanted.length > most ? (
          <div className="border-t p-3 text-center">
            <Button onClick={() => setMost(most + STEP)}>{say("older")}</Button>
          </div>
        ) : null}
      </Panel>
    </div>
  );
}

function toneOf(type: string): Tone {
  if (/failed|unreachable|exited|unhealthy|deleted/.test(type)) return "bad";
  if (/ready|resumed|created|opened|restored|checkpointed/.test(type)) return "good";
  return "idle";
}

function factsOf({ data }: Event): string {
  return Object.entries(data ?? {})
    .map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join("  ");
}

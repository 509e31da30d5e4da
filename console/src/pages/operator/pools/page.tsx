/** How full the pools are, and what keeps each from being full. */

import { useQuery } from "@tanstack/react-query";
import type { PoolState, Template } from "bay-sandbox";
import { Layers, SlidersHorizontal } from "lucide-react";
import { type ReactNode, useState } from "react";
import { Link } from "react-router";
import { bay } from "@/bay";
import { count } from "@/lib/format";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { nameOf, templatesQuery } from "@/pages/templates/query";
import { Badge, type Tone } from "@/ui/badge";
import { Button } from "@/ui/button";
import { Meter } from "@/ui/meter";
import { Moment } from "@/ui/moment";
import { PageFrame } from "@/ui/page_frame";
import { Fact, Panel } from "@/ui/panel";
import { Answered, Empty } from "@/ui/states";
import { PoolSize } from "./pool_size";
import { hitRate, stateOf } from "./states";
import { poolWords } from "./words";

/** No event says that a pool has changed; it is read while it is looked at. */
const EVERY_MS = 5_000;
const TONES: Record<ReturnType<typeof stateOf>, Tone> = { full: "good", filling: "warn", failing: "bad" };

export default function PoolsPage(): ReactNode {
  const say = useWords(poolWords);
  const query = useQuery({
    queryKey: keys.nouns("pools"),
    queryFn: ({ signal }) => bay.admin.pool({ signal }),
    refetchInterval: EVERY_MS,
    staleTime: 0,
  });
  const { data } = query;
  const templates = useQuery({ ...templatesQuery, enabled: data?.some((one) => one.template_id) ?? false });
  const of = (pool: PoolState): Template | undefined =>
    templates.data?.find((template) => template.id === pool.template_id);
  return (
    <PageFrame title={say("title")} about={say("about")}>
      <Answered
        query={query}
        none={
          <Empty icon={<Layers />} title={say("none")}>
            <p>{say("noneAbout")}</p>
            <Link className="font-medium text-accent underline" to="/console/templates">
              {say("toTemplates")}
            </Link>
          </Empty>
        }
      >
        {(data) => (
          <>
            <ul className="grid gap-4 p-4 lg:grid-cols-2 2xl:grid-cols-3">
              {data.map((pool) => (
                <li key={pool.template_id ?? pool.profile}>
                  <PoolCard pool={pool} template={of(pool)} />
                </li>
              ))}
            </ul>
            <p className="px-4 pb-4 text-xs text-muted">{say("since")}</p>
          </>
        )}
      </Answered>
    </PageFrame>
  );
}

function PoolCard({ pool, template }: { pool: PoolState; template: Template | undefined }): ReactNode {
  const say = useWords(poolWords);
  const [asks, setAsks] = useState(false);
  const state = stateOf(pool);
  const rate = hitRate(pool);
  const name = template ? nameOf(template) : (pool.template_id ?? pool.profile);
  return (
    <Panel
      className="h-full"
      title={say(pool.template_id ? "template" : "profile", { name })}
      acts={
        <Badge tone={TONES[state]} dot>
          {say(state)}
        </Badge>
      }
    >
      <div className="p-4">
        <Meter
          calm
          name={say("ready")}
          value={pool.ready}
          most={pool.size}
          words={say("readyOf", { ready: count(pool.ready), size: count(pool.size) })}
        />
        <dl className="mt-4 grid grid-cols-2 gap-3 sm:grid-cols-3">
          <Fact name={say("starting")}>{count(pool.starting)}</Fact>
          <Fact name={say("hits")}>{count(pool.hits)}</Fact>
          <Fact name={say("misses")}>{count(pool.misses)}</Fact>
          <Fact name={say("served")}>{rate === null ? "—" : `${rate} %`}</Fact>
          <Fact name={say("failures")}>{count(pool.failures)}</Fact>
          <Fact name={say("oldest")}>{pool.oldest_at ? <Moment at={pool.oldest_at} /> : "—"}</Fact>
        </dl>
        {pool.last_error ? (
          <div className="mt-4 rounded-lg bg-bad-soft px-3 py-2 text-sm text-bad">
            <p className="font-medium">
              {say("lastError")}
              {pool.refill_at ? (
                <span className="font-normal">
                  {" · "}
                  {say("refill")} <Moment at={pool.refill_at} />
                </span>
              ) : null}
            </p>
            <p className="mt-0.5 max-h-32 overflow-auto break-words">{pool.last_error}</p>
          </div>
        ) : null}
        <div className="mt-4 flex items-center gap-3 text-xs text-muted">
          {template ? (
            <Button icon={<SlidersHorizontal aria-hidden />} onClick={() => setAsks(true)}>
              {say("size")}
            </Button>
          ) : pool.template_id ? null : (
            say("fixed")
          )}
        </div>
      </div>
      {asks && template ? <PoolSize template={template} onClose={() => setAsks(false)} /> : null}
    </Panel>
  );
}

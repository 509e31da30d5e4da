/** The Bays of one database, and which of them does what. */

import { useQuery } from "@tanstack/react-query";
import type { Replica } from "bay-sandbox";
import { Server } from "lucide-react";
import type { ReactNode } from "react";
import { bay } from "@/bay";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { Badge } from "@/ui/badge";
import { Moment } from "@/ui/moment";
import { PageFrame } from "@/ui/page_frame";
import { Fact, Facts, Panel } from "@/ui/panel";
import { Answered, Empty } from "@/ui/states";
import { ranges } from "./ranges";
import { replicaWords } from "./words";

/** No event says that a replica has gone; it is read while it is looked at. */
const EVERY_MS = 5_000;

export default function ReplicasPage(): ReactNode {
  const say = useWords(replicaWords);
  const query = useQuery({
    queryKey: keys.nouns("replicas"),
    queryFn: ({ signal }) => bay.admin.replicas({ signal }),
    refetchInterval: EVERY_MS,
    staleTime: 0,
  });
  return (
    <PageFrame title={say("title")} about={say("about")}>
      <Answered query={query}>
        {(data) =>
          data.items.length < 2 && data.unheld.length === 0 ? (
            <Empty icon={<Server />} title={say("alone")}>
              <p>{say("aloneAbout")}</p>
              <a
                className="font-medium text-accent underline"
                href="/docs/replicas/"
                target="_blank"
                rel="noreferrer"
              >
                {say("howTo")}
              </a>
            </Empty>
          ) : (
            <div className="grid gap-4 p-4">
              {data.unheld.length ? (
                <div className="rounded-xl border border-warn/40 bg-warn-soft px-4 py-3 text-sm text-warn">
                  <p className="font-medium">{say("unheld")}</p>
                  <p className="mt-0.5">{say("unheldAbout")}</p>
                  <p className="mt-2 font-mono text-xs break-words">{data.unheld.join(", ")}</p>
                </div>
              ) : null}
              <ul className="grid gap-4 lg:grid-cols-2">
                {data.items.map((one) => (
                  <li key={one.id}>
                    <ReplicaCard one={one} />
                  </li>
                ))}
              </ul>
            </div>
          )
        }
      </Answered>
    </PageFrame>
  );
}

function ReplicaCard({ one }: { one: Replica }): ReactNode {
  const say = useWords(replicaWords);
  return (
    <Panel
      className="h-full"
      title={<span className="font-mono break-all">{one.id}</span>}
      acts={one.is_self ? <Badge tone="accent">{say("answers")}</Badge> : null}
    >
      <Facts>
        <Fact name="URL">
          <span className="break-all">{one.url}</span>
        </Fact>
        <Fact name={say("version")}>{one.version}</Fact>
        <Fact name={say("started")}>
          <Moment at={one.started_at} />
        </Fact>
        <Fact name={say("beat")}>
          <Moment at={one.beat_at} />
        </Fact>
        <Fact name={say("shards")}>{ranges(one.shards) || say("none")}</Fact>
        <Fact name={say("jobs")}>{one.jobs.join(", ") || say("none")}</Fact>
      </Facts>
    </Panel>
  );
}

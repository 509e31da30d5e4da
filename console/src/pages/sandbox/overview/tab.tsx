import type { Sandbox } from "bay-sandbox";
import { lazy, type ReactNode, Suspense } from "react";
import { bytes, duration } from "@/lib/format";
import { useWords } from "@/lib/words";
import { shortRef } from "@/pages/images/query";
import { useSavesMemory } from "@/profiles";
import { Badge } from "@/ui/badge";
import { Moment } from "@/ui/moment";
import { Fact, Facts, Panel } from "@/ui/panel";
import { Loading } from "@/ui/states";
import { sandboxWords } from "../words";

const Charts = lazy(() => import("../usage/charts"));
const MIB = 1024 * 1024;

export default function Overview({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(sandboxWords);
  const seconds = (value: number | null): string => (value === null ? say("notIdle") : duration(value));
  const sizes = [
    box.cpus === null ? null : say("cores", { count: box.cpus }),
    box.memory_mb === null ? null : say("memory", { size: bytes(box.memory_mb * MIB) }),
    box.disk_mb === null ? null : say("disk", { size: bytes(box.disk_mb * MIB) }),
    box.pids === null ? null : say("processes", { number: box.pids }),
  ].filter((size) => size !== null);
  const atRest = useSavesMemory(box) ? "warmHibernates" : "warm";
  const labels = Object.entries(box.labels);
  return (
    <div className="grid gap-4 p-4">
      {box.error ? (
        <p
          role="alert"
          className="rounded-xl border border-bad/40 bg-bad-soft px-4 py-3 text-sm break-words text-bad"
        >
          {say("error", { message: box.error.message })}
        </p>
      ) : null}
      <Panel title={say("about")}>
        <Facts many>
          <Fact name={say("id")}>
            <code>{box.id}</code>
          </Fact>
          <Fact name={say("created")}>
            <Moment at={box.created_at} />
          </Fact>
          <Fact name={say("profile")}>{box.profile}</Fact>
          <Fact name={say("expires")}>{box.expires_at ? <Moment at={box.expires_at} /> : say("never")}</Fact>
          <Fact name={say("image")}>{shortRef(box.image)}</Fact>
          <Fact name={say("isolation")}>{box.isolation}</Fact>
          <Fact name={say("sizes")}>{sizes.join(" · ") || say("noLimit")}</Fact>
          <Fact name={say("network")}>{say(box.network)}</Fact>
          <Fact name={say("idle")}>{seconds(box.idle_timeout)}</Fact>
          <Fact name={say(atRest)}>{seconds(box.warm_timeout)}</Fact>
          <Fact name={say("keeps")}>{say(box.persist)}</Fact>
          {box.url?.href ? (
            <Fact name={say("url")}>
              <a href={box.url.href} target="_blank" rel="noreferrer" className="text-accent underline">
                {box.url.href}
              </a>
            </Fact>
          ) : null}
          {labels.length ? (
            <Fact name={say("labels")}>
              <span className="flex flex-wrap gap-1">
                {labels.map(([key, value]) => (
                  <Badge key={key}>
                    {key}={value}
                  </Badge>
                ))}
              </span>
            </Fact>
          ) : null}
        </Facts>
      </Panel>
      <Suspense fallback={<Loading />}>
        <Charts box={box} />
      </Suspense>
    </div>
  );
}

/** All commands of a sandbox, and the output of one. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { Sandbox } from "bay-sandbox";
import { ListTree, Play } from "lucide-react";
import { type ReactNode, useState } from "react";
import { useSearchParams } from "react-router";
import { useWords } from "@/lib/words";
import { mayWrite, useMe } from "@/sign_in";
import { Button } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { Empty, Failed, Loading } from "@/ui/states";
import { Detail } from "./detail";
import { execsQuery } from "./query";
import { Row } from "./row";
import { RunDialog } from "./run";
import { execWords } from "./words";

const IN_ADDRESS = "exec";
/** Execs have no events. The list wakes nothing, and is read only while it is looked at and something can run. */
const EVERY_MS = 2_000;

export default function CommandsTab({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(execWords);
  const cache = useQueryClient();
  const me = useMe();
  const query = execsQuery(box.id);
  const list = useQuery({
    ...query,
    refetchOnMount: "always",
    refetchInterval: box.compute === "running" ? EVERY_MS : false,
  });
  const [address, setAddress] = useSearchParams();
  const [isRunOpen, setRunOpen] = useState(false);
  const wanted = address.get(IN_ADDRESS);
  const chosen = list.data?.find(({ id }) => id === wanted) ?? null;
  const choose = (id: string | null): void => {
    setAddress((now) => {
      if (id === null) now.delete(IN_ADDRESS);
      else now.set(IN_ADDRESS, id);
      return now;
    });
  };
  if (list.data === undefined)
    return list.error ? <Failed error={list.error} retry={() => void list.refetch()} /> : <Loading />;
  const run = mayWrite(me) ? (
    <Button kind="primary" icon={<Play aria-hidden />} onClick={() => setRunOpen(true)}>
      {say("run")}
    </Button>
  ) : null;
  return (
    <div className="flex min-h-0 flex-1 flex-col">
      {list.data.length === 0 ? (
        <Empty icon={<ListTree />} title={say("none")}>
          <p>{say("noneAbout")}</p>
          {run}
        </Empty>
      ) : (
        <div className="flex min-h-0 flex-1">
          <section
            aria-label={say("commands")}
            className={cx(
              "relative min-w-0 flex-1 flex-col lg:flex lg:max-w-96 lg:border-r",
              chosen ? "hidden" : "flex",
            )}
          >
            <div className="flex justify-end border-b bg-panel px-4 py-2">{run}</div>
            <ul className="min-h-0 flex-1 bg-panel lg:max-h-[calc(100dvh-11rem)] lg:overflow-y-auto">
              {list.data.map((exec) => (
                <Row
                  key={exec.id}
                  exec={exec}
                  chosen={exec.id === chosen?.id}
                  choose={() => choose(exec.id)}
                />
              ))}
            </ul>
          </section>
          {chosen ? (
            <Detail key={chosen.id} box={box} exec={chosen} back={() => choose(null)} />
          ) : (
            <p className="hidden flex-1 items-center justify-center text-sm text-muted lg:flex">
              {say("choose")}
            </p>
          )}
        </div>
      )}
      <RunDialog
        box={box}
        open={isRunOpen}
        onOpenChange={setRunOpen}
        started={(exec) => {
          setRunOpen(false);
          cache.setQueryData(query.queryKey, (now) => [
            exec,
            ...(now ?? []).filter(({ id }) => id !== exec.id),
          ]);
          choose(exec.id);
        }}
      />
    </div>
  );
}

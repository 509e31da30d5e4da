/** One exec: what it is, what can be done with it, and its output. */

import { useQueryClient } from "@tanstack/react-query";
import type { Exec, Proc, Sandbox } from "bay-sandbox";
import { ArrowLeft, CircleStop, CornerDownLeft, SquareTerminal, Zap } from "lucide-react";
import { type ReactNode, useState } from "react";
import { Link, useParams } from "react-router";
import { bay } from "@/bay";
import { bytes, duration } from "@/lib/format";
import { useWords } from "@/lib/words";
import { mayWrite, useMe } from "@/sign_in";
import { Button, IconButton } from "@/ui/button";
import { Input } from "@/ui/fields";
import { Menu } from "@/ui/menu";
import { Moment } from "@/ui/moment";
import { tellError } from "@/ui/toasts";
import { commandOf, ranFor } from "./commands";
import { Output } from "./output";
import { execsQuery } from "./query";
import { ExecBadge } from "./row";
import { execWords } from "./words";

const SIGNALS = ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT", "KILL"];

export function Detail({ box, exec, back }: { box: Sandbox; exec: Exec; back(): void }): ReactNode {
  const say = useWords(execWords);
  const cache = useQueryClient();
  const me = useMe();
  const { ref = box.id } = useParams();
  const isRunning = exec.state === "running" && box.compute !== "cold";
  const command = commandOf(exec.argv);
  const act = async (work: (proc: Proc) => Promise<unknown>): Promise<void> => {
    try {
      const handle = await bay.sandboxes.get(box.id);
      await work(await handle.execs.get(exec.id));
    } catch (error) {
      tellError(error);
    }
    await cache.invalidateQueries(execsQuery(box.id));
  };
  return (
    <div className="flex min-h-0 min-w-0 flex-1 flex-col">
      <header className="flex flex-col gap-2 border-b bg-panel px-4 py-3">
        <div className="flex flex-wrap items-center gap-2">
          <IconButton label={say("back")} className="lg:hidden" onClick={back}>
            <ArrowLeft aria-hidden />
          </IconButton>
          <ExecBadge exec={exec} />
          {isRunning && mayWrite(me) ? (
            <div className="ml-auto flex flex-wrap items-center gap-1.5">
              {exec.tty ? (
                <Link
                  to={`/console/sandboxes/${ref}/terminal?exec=${exec.id}`}
                  className="inline-flex min-h-9 items-center gap-2 rounded-lg border border-strong-line/60 px-3 text-sm font-medium hover:bg-raised"
                >
                  <SquareTerminal aria-hidden className="size-4" />
                  {say("terminal")}
                </Link>
              ) : null}
              <Menu
                label={say("signal")}
                trigger={<Button icon={<Zap aria-hidden />}>{say("signal")}</Button>}
                items={SIGNALS.map((signal) => ({
                  label: `SIG${signal}`,
                  onSelect: () => void act((proc) => proc.signal(signal)),
                }))}
              />
              <Button icon={<CircleStop aria-hidden />} onClick={() => void act((proc) => proc.kill())}>
                {say("end")}
              </Button>
            </div>
          ) : null}
        </div>
        <pre className="max-h-32 overflow-auto text-sm break-all whitespace-pre-wrap">{command}</pre>
        <dl className="flex flex-wrap gap-x-5 gap-y-1 text-xs text-muted [&_dd]:text-ink [&_div]:flex [&_div]:gap-1.5">
          <Small name={say("started")}>
            <Moment at={exec.started_at} />
          </Small>
          {exec.ended_at ? <Small name={say("took")}>{duration(ranFor(exec))}</Small> : null}
          {exec.pid ? <Small name={say("pid")}>{exec.pid}</Small> : null}
          <Small name={say("printed")}>{bytes(exec.output_bytes)}</Small>
          {exec.reason ? <Small name={say("reason")}>{exec.reason}</Small> : null}
        </dl>
      </header>
      <Output box={box} exec={exec} name={command.slice(0, 60)} />
      {isRunning && !exec.tty && mayWrite(me) ? <Stdin act={act} /> : null}
    </div>
  );
}

function Small({ name, children }: { name: string; children: ReactNode }): ReactNode {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Stdin({ act }: { act(work: (proc: Proc) => Promise<unknown>): Promise<void> }): ReactNode {
  const say = useWords(execWords);
  const [line, setLine] = useState("");
  return (
    <form
      className="flex flex-wrap items-center gap-2 border-t bg-panel p-2"
      onSubmit={(event) => {
        event.preventDefault();
        setLine("");
        void act((proc) => proc.write(`${line}\n`));
      }}
    >
      <Input
        aria-label={say("stdin")}
        placeholder={say("stdinHint")}
        value={line}
        onChange={(event) => setLine(event.target.value)}
        className="min-w-40 flex-1 font-mono"
      />
      <Button type="submit" icon={<CornerDownLeft aria-hidden />}>
        {say("send")}
      </Button>
      <Button onClick={() => void act((proc) => proc.closeStdin())}>{say("eof")}</Button>
    </form>
  );
}

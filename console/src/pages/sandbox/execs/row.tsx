import type { Exec } from "bay-sandbox";
import { type ReactNode, useEffect, useState } from "react";
import { duration } from "@/lib/format";
import { useWords } from "@/lib/words";
import { Badge, type Tone } from "@/ui/badge";
import { cx } from "@/ui/class_names";
import { Moment } from "@/ui/moment";
import { programOf } from "../terminal/shells";
import { commandOf, ranFor } from "./commands";
import { execWords } from "./words";

const SECOND_MS = 1_000;

/** Whether it is a shell as a terminal opens it, whose command says nothing to people. */
function isLogin(exec: Exec): boolean {
  return exec.tty && programOf(exec) === "";
}

/** The state of an exec in a word, with its exit code. */
export function ExecBadge({ exec }: { exec: Exec }): ReactNode {
  const say = useWords(execWords);
  const isWell = exec.exit_code === 0;
  const tone: Tone =
    exec.state === "running" ? "accent" : exec.state === "exited" ? (isWell ? "good" : "bad") : "warn";
  const code = exec.exit_code === null ? "" : ` · ${say("code", { code: exec.exit_code })}`;
  return (
    <Badge tone={tone} dot>
      {exec.timed_out ? say("timedOut") : say(exec.state)}
      {exec.state === "running" ? "" : code}
    </Badge>
  );
}

export function Row({ exec, chosen, choose }: { exec: Exec; chosen: boolean; choose(): void }): ReactNode {
  const say = useWords(execWords);
  return (
    <li>
      <button
        type="button"
        aria-current={chosen || undefined}
        onClick={choose}
        className={cx(
          "flex w-full flex-col gap-1.5 border-b px-4 py-2.5 text-left hover:bg-raised",
          chosen && "bg-accent-soft",
        )}
      >
        <code className="w-full truncate text-sm">{isLogin(exec) ? say("login") : commandOf(exec.argv)}</code>
        <span className="flex w-full flex-wrap items-center gap-x-3 gap-y-1 text-xs text-muted">
          <ExecBadge exec={exec} />
          <Moment at={exec.started_at} />
          <Took exec={exec} />
        </span>
      </button>
    </li>
  );
}

function Took({ exec }: { exec: Exec }): ReactNode {
  const [now, setNow] = useState(Date.now);
  const isRunning = exec.ended_at === null && exec.state === "running";
  useEffect(() => {
    if (!isRunning) return;
    const timer = setInterval(() => setNow(Date.now()), SECOND_MS);
    return () => clearInterval(timer);
  }, [isRunning]);
  if (!isRunning && exec.ended_at === null) return null;
  return <span>{duration(isRunning ? Math.floor(ranFor(exec, now)) : ranFor(exec))}</span>;
}

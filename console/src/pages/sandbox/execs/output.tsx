/** What an exec printed and prints, with its colours; a reader only, whose reading slows nobody. */

import type { Exec, Sandbox } from "bay-sandbox";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { bay, stream } from "@/bay";
import { bytes } from "@/lib/format";
import { useWords } from "@/lib/words";
import { mayWrite, useMe } from "@/sign_in";
import { Button } from "@/ui/button";
import { Failed } from "@/ui/states";
import { tellError } from "@/ui/toasts";
import { useLooks } from "../terminal/looks";
import { looksOf, makeTerminal, showIn } from "../terminal/xterm";
import { followOutput, type Progress } from "./follow";
import { execWords } from "./words";

const SCROLLBACK_LINES = 50_000;

export function Output({ box, exec, name }: { box: Sandbox; exec: Exec; name: string }): ReactNode {
  const say = useWords(execWords);
  const me = useMe();
  if (box.compute === "running") return <Followed key={exec.id} box={box} exec={exec} name={name} />;
  if (box.compute !== "warm") return <p className="p-4 text-sm text-muted">{say("cold")}</p>;
  const thaw = async (): Promise<void> => {
    try {
      await (await bay.sandboxes.get(box.id)).resume();
    } catch (error) {
      tellError(error);
    }
  };
  return (
    <div className="flex flex-wrap items-center gap-3 p-4 text-sm text-muted">
      {say("asleep")}
      {mayWrite(me) ? <Button onClick={() => void thaw()}>{say("start")}</Button> : null}
    </div>
  );
}

function Followed({ box, exec, name }: { box: Sandbox; exec: Exec; name: string }): ReactNode {
  const say = useWords(execWords);
  const { looks } = useLooks();
  const place = useRef<HTMLDivElement>(null);
  const first = useRef({ looks, tty: exec.tty });
  const made = useRef<ReturnType<typeof makeTerminal> | null>(null);
  const [progress, setProgress] = useState<Progress>({ kind: "reading" });
  const [missing, setMissing] = useState(0);
  const [isEmpty, setEmpty] = useState(true);
  const [attempt, setAttempt] = useState(0);

  // biome-ignore lint/correctness/useExhaustiveDependencies: another attempt begins anew
  useEffect(() => {
    if (place.current === null) return;
    const terminal = makeTerminal(first.current.looks, true);
    terminal.options.scrollback = SCROLLBACK_LINES;
    terminal.options.convertEol = !first.current.tty;
    terminal.write("\x1b[?25l");
    const hide = showIn(terminal, place.current);
    made.current = terminal;
    const stop = new AbortController();
    const { signal } = stop;
    setMissing(0);
    const tell = (now: Progress): void => {
      if (now.kind === "missing") setMissing((before) => before + now.bytes);
      else setProgress(now);
    };
    async function* open(since: number | undefined) {
      const handle = await stream.sandboxes.get(box.id, { signal });
      const proc = await handle.execs.get(exec.id, { signal });
      // A look takes no command's reader from it.
      yield* proc.output({ ...(since === undefined ? {} : { since }), waitForReader: false, signal });
    }
    let release = (): void => undefined; // a terminal that is gone calls nobody back
    signal.addEventListener("abort", () => release(), { once: true });
    const show = ({ data }: { data: Uint8Array }): Promise<void> => {
      setEmpty(false);
      return new Promise((resolve) => {
        release = resolve;
        terminal.write(data, resolve);
      });
    };
    const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
    void followOutput(open, show, tell, pause, signal);
    return () => {
      stop.abort();
      hide();
      terminal.dispose();
      made.current = null;
    };
  }, [box.id, exec.id, attempt]);

  useEffect(() => {
    if (made.current !== null) Object.assign(made.current.options, looksOf(looks));
  }, [looks]);

  return (
    <div className="flex min-h-0 flex-1 flex-col">
      <div role="status">
        {missing > 0 ? (
          <p className="bg-warn-soft px-4 py-1.5 text-sm text-warn">
            {say("missing", { size: bytes(missing) })}
          </p>
        ) : null}
        {progress.kind === "broken" ? (
          <p className="bg-warn-soft px-4 py-1.5 text-sm text-warn">{say("broken")}</p>
        ) : null}
        {progress.kind === "gone" ? <p className="px-4 py-1.5 text-sm text-muted">{say("gone")}</p> : null}
        {progress.kind === "end" && isEmpty ? (
          <p className="px-4 py-1.5 text-sm text-muted">{say("silent")}</p>
        ) : null}
      </div>
      {progress.kind === "failed" ? (
        <Failed error={progress.error} retry={() => setAttempt((number) => number + 1)} />
      ) : null}
      <section
        aria-label={say("output", { name })}
        className="relative min-h-60 flex-1 bg-[#ffffff] dark:bg-[#0a1319]"
      >
        <div ref={place} className="absolute inset-0 overflow-hidden py-2 pl-4" />
      </section>
    </div>
  );
}

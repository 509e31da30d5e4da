/** Python as a notebook: cells in this browser, variables in the sandbox's kernel. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { Sandbox } from "bay-sandbox";
import { Eraser, ListVideo, Plus, RotateCcw, Square } from "lucide-react";
import { type ReactNode, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { bay } from "@/bay";
import { readSetting, writeSetting } from "@/lib/settings";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { mayWrite, useMe } from "@/sign_in";
import { Badge, type Tone } from "@/ui/badge";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Select } from "@/ui/fields";
import { tell, tellError } from "@/ui/toasts";
import { shared } from "@/words";
import { type CellActs, CellBox } from "./cell";
import * as notebook from "./notebook";
import { NOT_RUN } from "./outputs";
import { Runs } from "./runs";
import { pythonWords } from "./words";

const SAVE_MS = 600;
const TONES: Record<string, Tone> = {
  idle: "good",
  busy: "accent",
  starting: "warn",
  dead: "bad",
  none: "idle",
};
type KernelState = "none" | "starting" | "idle" | "busy" | "dead";

export default function PythonTab({ box }: { box: Sandbox }): ReactNode {
  return <Notebook key={box.id} box={box} />;
}

/** The cells of this browser, and whether they could be kept. */
function useCells(sandboxId: string) {
  const name = `python.${sandboxId}`;
  const [cells, setCells] = useState(() => notebook.restored(readSetting(name)));
  const [isKept, setKept] = useState(true);
  const latest = useRef(cells);
  latest.current = cells;
  const save = useCallback(() => {
    const text = notebook.kept(latest.current);
    if (text !== null) writeSetting(name, text);
    setKept(text !== null);
  }, [name]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: it is saved a moment after each change
  useEffect(() => {
    const timer = setTimeout(save, SAVE_MS);
    return () => clearTimeout(timer);
  }, [cells, save]);
  useEffect(() => {
    window.addEventListener("pagehide", save);
    return () => {
      window.removeEventListener("pagehide", save);
      save();
    };
  }, [save]);
  return { cells, latest, setCells, isKept };
}

function Notebook({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(pythonWords);
  const sayShared = useWords(shared);
  const cache = useQueryClient();
  const mayRun = mayWrite(useMe());
  const { cells, latest, setCells, isKept } = useCells(box.id);
  const [focus, setFocus] = useState<string | null>(null);
  const [kernelId, setKernelId] = useState(notebook.DEFAULT_KERNEL);
  const [restarting, setRestarting] = useState(false);
  const kernels = useQuery({
    queryKey: keys.of(box.id, "kernels"),
    queryFn: async ({ signal }) => {
      const handle = await bay.sandboxes.get(box.id, { signal });
      return (await handle.kernels.list({ signal })).map(({ info }) => info);
    },
    refetchOnMount: "always",
    refetchOnWindowFocus: "always",
  });
  const kernel = kernels.data?.find(({ id }) => id === kernelId);
  const isRunning = cells.some((cell) => cell.kernelId === kernelId && cell.ran.state === "running");
  const state: KernelState = isRunning ? "busy" : (kernel?.state ?? "none");

  const change = useCallback(
    (id: string, by: (cell: notebook.Cell) => notebook.Cell) =>
      setCells((now) => notebook.change(now, id, by)),
    [setCells],
  );
  const [runs, setRuns] = useState<Runs | null>(null);
  const asked = useRef(box);
  asked.current = box;
  useEffect(() => {
    const stop = new AbortController();
    setRuns(new Runs(asked.current, cache, change, stop.signal));
    return () => stop.abort();
  }, [cache, change]);

  // Cells that ran when the page was left are found again. That wakes a sandbox, so only in one that runs.
  const isAwake = box.compute === "running";
  useEffect(() => {
    if (runs === null || !isAwake) return;
    for (const cell of latest.current) if (notebook.isBusy(cell)) void runs.follow(cell);
  }, [runs, isAwake, latest]);

  const withKernel = useCallback(
    async (act: "interrupt" | "restart"): Promise<void> => {
      try {
        const handle = await bay.sandboxes.get(box.id);
        await (await handle.kernels.get(kernelId))[act]();
        if (act === "restart") tell(say("restarted"));
      } catch (error) {
        tellError(error);
      }
      await cache.invalidateQueries({ queryKey: keys.of(box.id, "kernels") });
    },
    [box.id, kernelId, cache, say],
  );

  const acts = useMemo<CellActs>(
    () => ({
      edit: (id, code) => change(id, (cell) => ({ ...cell, code })),
      focus: setFocus,
      run: (id, next) => {
        const cell = latest.current.find((one) => one.id === id);
        if (cell === undefined || runs === null || !mayRun) return;
        if (cell.code.trim() && !notebook.isBusy(cell)) void runs.run(cell, kernelId);
        if (!next) return;
        const behind = latest.current[latest.current.indexOf(cell) + 1];
        if (behind !== undefined) return setFocus(behind.id);
        const added = notebook.newCell();
        setCells((now) => notebook.addAfter(now, id, added));
        setFocus(added.id);
      },
      interrupt: () => void withKernel("interrupt"),
      move: (id, by) => setCells((now) => notebook.move(now, id, by)),
      remove: (id) => setCells((now) => notebook.remove(now, id)),
    }),
    [change, latest, runs, mayRun, kernelId, setCells, withKernel],
  );
  const runAll = (): void => {
    for (const cell of cells) acts.run(cell.id, false);
  };
  const add = (): void => {
    const added = notebook.newCell();
    setCells((now) => notebook.addAfter(now, null, added));
    setFocus(added.id);
  };
  const clear = (): void =>
    setCells((now) =>
      now.map((cell) => (notebook.isBusy(cell) ? cell : { ...cell, runId: null, ran: NOT_RUN })),
    );

  return (
    <div className="mx-auto flex w-full max-w-5xl flex-col gap-3 p-3 sm:p-4">
      <h2 className="sr-only">{say("notebook")}</h2>
      <div className="flex flex-wrap items-center gap-2">
        <span className="flex items-center gap-2 text-sm">
          <span className="text-muted">{say("kernel")}</span>
          {(kernels.data?.length ?? 0) > 1 ? (
            <Select
              aria-label={say("kernel")}
              value={kernelId}
              className="w-auto"
              onChange={(event) => setKernelId(event.target.value)}
            >
              {kernels.data?.map(({ id, spec }) => (
                <option key={id} value={id}>
                  {id === notebook.DEFAULT_KERNEL ? id : `${spec} · ${id.slice(-6)}`}
                </option>
              ))}
            </Select>
          ) : null}
          <Badge tone={TONES[state] ?? "idle"} dot>
            {say(state)}
          </Badge>
          {kernel?.version ? <span className="text-xs text-muted">{kernel.version}</span> : null}
        </span>
        {mayRun ? (
          <span className="ml-auto flex flex-wrap gap-1.5">
            <Button icon={<ListVideo aria-hidden />} onClick={runAll}>
              {say("runAll")}
            </Button>
            <Button
              icon={<Square aria-hidden />}
              disabled={state !== "busy"}
              onClick={() => void withKernel("interrupt")}
            >
              {say("interrupt")}
            </Button>
            <Button
              icon={<RotateCcw aria-hidden />}
              disabled={kernel === undefined}
              onClick={() => setRestarting(true)}
            >
              {say("restart")}
            </Button>
            <Button icon={<Eraser aria-hidden />} kind="quiet" onClick={clear}>
              {say("clear")}
            </Button>
          </span>
        ) : (
          <span className="text-sm text-muted">{say("readOnly")}</span>
        )}
      </div>
      {isAwake ? null : (
        <p role="status" className="rounded-xl bg-accent-soft px-4 py-2.5 text-sm text-accent">
          {say(box.compute === "warm" ? "thaws" : "wakes")}
        </p>
      )}
      {isKept ? null : (
        <p role="alert" className="rounded-xl bg-warn-soft px-4 py-2.5 text-sm text-warn">
          {say("notKept")}
        </p>
      )}
      {cells.map((cell, at) => (
        <CellBox
          key={cell.id}
          cell={cell}
          number={at + 1}
          isFirst={at === 0}
          isLast={at === cells.length - 1}
          focused={cell.id === focus}
          language={kernel?.language ?? "python"}
          mayRun={mayRun}
          acts={acts}
        />
      ))}
      {mayRun ? (
        <div className="flex flex-wrap items-center gap-3">
          <Button icon={<Plus aria-hidden />} onClick={add}>
            {say("add")}
          </Button>
          <p className="min-w-60 flex-1 text-xs text-muted">
            {say("keys")} {say("kept")}
          </p>
        </div>
      ) : null}
      <Dialog
        open={restarting}
        onOpenChange={setRestarting}
        title={say("restartTitle")}
        about={say("restartAbout")}
      >
        <div className="flex justify-end gap-2">
          <Button onClick={() => setRestarting(false)}>{sayShared("cancel")}</Button>
          <Button
            kind="danger"
            onClick={() => {
              setRestarting(false);
              void withKernel("restart");
            }}
          >
            {say("restart")}
          </Button>
        </div>
      </Dialog>
    </div>
  );
}

import { ArrowDown, ArrowUp, Play, Square, Trash2 } from "lucide-react";
import { memo, type ReactNode } from "react";
import { duration } from "@/lib/format";
import { useWords } from "@/lib/words";
import { Badge, type Tone } from "@/ui/badge";
import { IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { CellEditor } from "./editor";
import { type Cell, isBusy } from "./notebook";
import type { CellState } from "./outputs";
import { Shown } from "./shown";
import { pythonWords } from "./words";

const TONES: Record<CellState, Tone> = {
  new: "idle",
  queued: "idle",
  running: "accent",
  ok: "good",
  error: "bad",
  timeout: "warn",
  interrupted: "warn",
  lost: "bad",
};

export interface CellActs {
  edit(id: string, code: string): void;
  focus(id: string): void;
  run(id: string, next: boolean): void;
  interrupt(): void;
  move(id: string, by: -1 | 1): void;
  remove(id: string): void;
}

interface Props {
  cell: Cell;
  number: number;
  isFirst: boolean;
  isLast: boolean;
  focused: boolean;
  language: string;
  mayRun: boolean;
  acts: CellActs;
}

export const CellBox = memo(function CellBox(props: Props): ReactNode {
  const { cell, number, isFirst, isLast, focused, language, mayRun, acts } = props;
  const say = useWords(pythonWords);
  const { ran } = cell;
  return (
    <section
      aria-label={say("cell", { number })}
      className={cx("overflow-hidden rounded-xl border bg-panel", focused && "border-accent")}
    >
      <header className="flex items-center gap-1 border-b px-2 py-1">
        {!mayRun ? null : isBusy(cell) ? (
          <IconButton label={say("stop")} onClick={acts.interrupt}>
            <Square aria-hidden />
          </IconButton>
        ) : (
          <IconButton label={say("run")} onClick={() => acts.run(cell.id, false)}>
            <Play aria-hidden />
          </IconButton>
        )}
        <code className="px-1 text-xs text-muted">[{ran.count ?? " "}]</code>
        {ran.state === "new" ? null : (
          <Badge tone={TONES[ran.state]} dot>
            {say(ran.state)}
          </Badge>
        )}
        {ran.durationMs === null ? null : (
          <span className="pl-1 text-xs text-muted">{duration(ran.durationMs / 1000)}</span>
        )}
        {mayRun ? (
          <span className="ml-auto flex">
            <IconButton label={say("up")} disabled={isFirst} onClick={() => acts.move(cell.id, -1)}>
              <ArrowUp aria-hidden />
            </IconButton>
            <IconButton label={say("down")} disabled={isLast} onClick={() => acts.move(cell.id, 1)}>
              <ArrowDown aria-hidden />
            </IconButton>
            <IconButton label={say("remove")} onClick={() => acts.remove(cell.id)}>
              <Trash2 aria-hidden />
            </IconButton>
          </span>
        ) : null}
      </header>
      <CellEditor
        code={cell.code}
        label={say("code", { number })}
        language={language}
        isReadOnly={!mayRun}
        focused={focused}
        onChange={(code) => acts.edit(cell.id, code)}
        onFocus={() => acts.focus(cell.id)}
        run={(next) => acts.run(cell.id, next)}
      />
      {ran.outputs.length || ran.message || ran.cut ? (
        <section aria-label={say("output", { number })} className="border-t">
          {ran.cut ? <p className="bg-warn-soft px-3 py-1.5 text-xs text-warn">{say("cut")}</p> : null}
          {ran.outputs.map((output, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: outputs are only added at the end
            <Shown key={at} output={output} number={number} />
          ))}
          {ran.message ? <p className="px-3 py-2 text-sm break-words text-bad">{ran.message}</p> : null}
        </section>
      ) : null}
    </section>
  );
});

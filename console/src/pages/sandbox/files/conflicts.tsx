import type { ReactNode } from "react";
import { useWords } from "@/lib/words";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { shared } from "@/words";
import type { Dropped } from "./dropped";
import { Name } from "./name";
import { filesWords } from "./words";

const SHOWN = 8;

/** An upload that would replace files. */
export interface Pending {
  dropped: Dropped;
  found: Set<string>;
}

/** Asks which of them to send: `onDone` is given those to leave out, or null for none at all. */
export function Conflicts({
  pending: { dropped, found },
  folder,
  onDone,
}: {
  pending: Pending;
  folder: string;
  onDone(left: Set<string> | null): void;
}): ReactNode {
  const say = useWords(filesWords);
  const sayShared = useWords(shared);
  const paths = [...found];
  return (
    <Dialog
      open
      onOpenChange={() => onDone(null)}
      title={say("conflictTitle")}
      about={say("conflict", { number: paths.length, all: dropped.files.length })}
    >
      <ul className="mb-4 flex flex-col gap-1 text-sm">
        {paths.slice(0, SHOWN).map((path) => (
          <li key={path} className="truncate rounded bg-raised px-2 py-1 font-mono">
            <Name text={path.slice(folder.length).replace(/^\//, "")} />
          </li>
        ))}
        {paths.length > SHOWN ? (
          <li className="text-muted">{say("andMore", { number: paths.length - SHOWN })}</li>
        ) : null}
      </ul>
      <div className="flex flex-wrap justify-end gap-2">
        <Button onClick={() => onDone(null)}>{sayShared("cancel")}</Button>
        <Button onClick={() => onDone(found)}>{say("skip")}</Button>
        <Button kind="danger" onClick={() => onDone(new Set())}>
          {say("replace")}
        </Button>
      </div>
    </Dialog>
  );
}

/** New files and folders, other names and other places. */

import { Conflict, type FileInfo, type Sandbox } from "bay-sandbox";
import { type FormEvent, type ReactNode, useState } from "react";
import { said } from "@/bay";
import { useWords } from "@/lib/words";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Check, Field, Input } from "@/ui/fields";
import { shared } from "@/words";
import { absolute, join, nameOf, parentOf, plain, problemOf } from "./paths";
import { filesOf, write } from "./sandbox_files";
import { filesWords } from "./words";

const PROBLEMS = {
  empty: "badEmpty",
  slash: "badSlash",
  dots: "badDots",
  long: "badLong",
  nul: "badNul",
} as const;

/** Chooses the part of a name before its extension, when its field appears. */
function selectName(field: HTMLInputElement | null): void {
  if (field === null) return;
  const name = nameOf(field.value);
  const start = field.value.length - name.length;
  const dot = name.lastIndexOf(".");
  field.setSelectionRange(start, start + (dot > 0 ? dot : name.length));
}

function Ask({
  title,
  label,
  value,
  act,
  canReplace = false,
  onClose,
  onSubmit,
}: {
  title: string;
  label: string;
  value: string;
  act: string;
  canReplace?: boolean;
  onClose(): void;
  /** Gives why it cannot be; empty when it is done. */
  onSubmit(text: string, overwrite: boolean): Promise<string>;
}): ReactNode {
  const say = useWords(filesWords);
  const sayShared = useWords(shared);
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    setBusy(true);
    try {
      setProblem(await onSubmit(String(given.get("text") ?? ""), given.has("overwrite")));
    } catch (error) {
      setProblem(said(error));
    }
    setBusy(false);
  };
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={title}>
      <form onSubmit={submit} className="flex flex-col gap-4">
        <Field label={label} error={problem}>
          {(at) => (
            <Input
              {...at}
              name="text"
              defaultValue={value}
              autoFocus
              className="font-mono"
              ref={selectName}
            />
          )}
        </Field>
        {canReplace ? <Check label={say("overwrite")} name="overwrite" /> : null}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>{sayShared("cancel")}</Button>
          <Button kind="primary" type="submit" busy={isBusy}>
            {act}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

export function MakeDialog({
  box,
  folder,
  kind,
  taken,
  onDone,
}: {
  box: Sandbox;
  folder: string;
  kind: "file" | "folder";
  taken: readonly string[];
  onDone(path: string | null): void;
}): ReactNode {
  const say = useWords(filesWords);
  const sayShared = useWords(shared);
  return (
    <Ask
      title={kind === "file" ? say("newFile") : say("newFolder")}
      label={sayShared("name")}
      value=""
      act={sayShared("create")}
      onClose={() => onDone(null)}
      onSubmit={async (name) => {
        const problem = problemOf(name);
        if (problem) return say(PROBLEMS[problem]);
        const path = join(folder, name);
        const files = await filesOf(box.id);
        if (taken.includes(name) || (await files.exists(path))) return say("taken", { name: plain(name) });
        if (kind === "file") await write(box.id, path, "");
        else await files.mkdir(path);
        onDone(path);
        return "";
      }}
    />
  );
}

export function RenameDialog({
  box,
  entry,
  onDone,
}: {
  box: Sandbox;
  entry: FileInfo;
  onDone(): void;
}): ReactNode {
  const say = useWords(filesWords);
  return (
    <Ask
      title={say("renameTitle", { name: plain(entry.name) })}
      label={say("newName")}
      value={entry.name}
      act={say("rename")}
      onClose={onDone}
      onSubmit={async (name) => {
        const problem = problemOf(name);
        if (problem) return say(PROBLEMS[problem]);
        if (name !== entry.name) await move(box.id, entry.path, join(parentOf(entry.path), name), false);
        onDone();
        return "";
      }}
    />
  );
}

export function MoveDialog({
  box,
  entry,
  onDone,
}: {
  box: Sandbox;
  entry: FileInfo;
  onDone(): void;
}): ReactNode {
  const say = useWords(filesWords);
  return (
    <Ask
      title={say("moveTitle", { name: plain(entry.name) })}
      label={say("newPath")}
      value={entry.path}
      act={say("rename")}
      canReplace
      onClose={onDone}
      onSubmit={async (text, overwrite) => {
        const path = absolute(text, parentOf(entry.path));
        try {
          if (path !== entry.path) await move(box.id, entry.path, path, overwrite);
        } catch (error) {
          if (error instanceof Conflict) return say("taken", { name: plain(path) });
          throw error;
        }
        onDone();
        return "";
      }}
    />
  );
}

async function move(sandbox: string, from: string, to: string, overwrite: boolean): Promise<void> {
  await (await filesOf(sandbox)).move(from, to, { overwrite });
}

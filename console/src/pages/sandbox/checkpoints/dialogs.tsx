/** What asks before something is made of a checkpoint, or lost. */

import { useQueryClient } from "@tanstack/react-query";
import type { Checkpoint, Sandbox } from "bay-sandbox";
import { type FormEvent, type ReactNode, useState } from "react";
import { Link } from "react-router";
import { bay, said } from "@/bay";
import { useWords } from "@/lib/words";
import { put } from "@/live";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Check, Field, Input } from "@/ui/fields";
import { tell } from "@/ui/toasts";
import { shared } from "@/words";
import { nameOf } from "./timeline";
import { checkpointWords } from "./words";

const MOST_FORKS = 100;

interface Given {
  box: Sandbox;
  onClose(): void;
}

function Form({
  title,
  about,
  act,
  isDanger = false,
  children,
  onClose,
  onSubmit,
}: {
  title: string;
  about: string;
  act: string;
  isDanger?: boolean;
  children?: ReactNode;
  onClose(): void;
  onSubmit(given: FormData): Promise<void>;
}): ReactNode {
  const sayShared = useWords(shared);
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setProblem("");
    try {
      await onSubmit(new FormData(event.currentTarget));
    } catch (error) {
      setProblem(said(error));
    }
    setBusy(false);
  };
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={title} about={about}>
      <form onSubmit={submit} className="flex flex-col gap-4">
        {children}
        {problem ? (
          <p role="alert" className="rounded-lg bg-bad-soft px-3 py-2 text-sm break-words text-bad">
            {problem}
          </p>
        ) : null}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>{sayShared("cancel")}</Button>
          <Button kind={isDanger ? "danger" : "primary"} type="submit" busy={isBusy}>
            {act}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

function textOf(given: FormData, name: string): string {
  return String(given.get(name) ?? "").trim();
}

export function MakeDialog({ box, onClose }: Given): ReactNode {
  const say = useWords(checkpointWords);
  const sayShared = useWords(shared);
  return (
    <Form
      title={say("make")}
      about={say("makeAbout")}
      act={say("makeGo")}
      onClose={onClose}
      onSubmit={async (given) => {
        const name = textOf(given, "name");
        const comment = textOf(given, "comment");
        const wanted = { ...(name ? { name } : {}), ...(comment ? { comment } : {}) };
        const made = await (await bay.sandboxes.get(box.id)).checkpoint(wanted);
        tell(say("made", { name: nameOf(made) }));
        onClose();
      }}
    >
      <Field label={sayShared("name")} hint={say("nameHint")}>
        {(at) => <Input {...at} name="name" autoFocus maxLength={63} />}
      </Field>
      <Field label={say("comment")} hint={say("commentHint")}>
        {(at) => <Input {...at} name="comment" maxLength={1000} />}
      </Field>
    </Form>
  );
}

export function RestoreDialog({ box, one, onClose }: Given & { one: Checkpoint }): ReactNode {
  const say = useWords(checkpointWords);
  const cache = useQueryClient();
  const name = nameOf(one);
  return (
    <Form
      title={say("restoreTitle", { name })}
      about={say("restoreAbout")}
      act={say("restoreGo")}
      isDanger
      onClose={onClose}
      onSubmit={async (given) => {
        const found = await bay.sandboxes.get(box.id);
        if (given.has("first")) await found.checkpoint({ comment: say("restoreName", { name }) });
        put(cache, await found.restore(one.id));
        tell(say("restored", { name }));
        onClose();
      }}
    >
      <Check name="first" label={say("restoreFirst")} defaultChecked />
    </Form>
  );
}

export function ForkDialog({ box, one, onClose }: Given & { one: Checkpoint }): ReactNode {
  const say = useWords(checkpointWords);
  const [made, setMade] = useState<Sandbox[]>([]);
  const name = nameOf(one);
  if (made.length) {
    return (
      <Dialog open onOpenChange={onClose} title={say("forkTitle", { name })} about={say("forked")}>
        <ul className="mb-4 flex flex-col gap-1">
          {made.map((box) => (
            <li key={box.id}>
              <Link
                className="block truncate rounded-lg bg-raised px-3 py-2 text-sm font-medium text-accent hover:underline"
                to={`/console/sandboxes/${box.name ?? box.id}`}
              >
                {box.name ?? box.id}
              </Link>
            </li>
          ))}
        </ul>
        <div className="flex justify-end">
          <Button onClick={onClose}>{say("close")}</Button>
        </div>
      </Dialog>
    );
  }
  return (
    <Form
      title={say("forkTitle", { name })}
      about={say("forkAbout")}
      act={say("forkGo")}
      onClose={onClose}
      onSubmit={async (given) => {
        const called = textOf(given, "name");
        const wanted = { count: Number(textOf(given, "count")), ...(called ? { name: called } : {}) };
        const copies = await (await bay.sandboxes.get(box.id)).fork({ checkpoint: one, ...wanted });
        setMade([...copies].map((copy) => copy.info));
      }}
    >
      <Field label={say("forkCount")}>
        {(at) => (
          <Input
            {...at}
            name="count"
            type="number"
            min={1}
            max={MOST_FORKS}
            defaultValue={1}
            required
            autoFocus
          />
        )}
      </Field>
      <Field label={say("forkName")} hint={say("forkNameHint")}>
        {(at) => <Input {...at} name="name" maxLength={60} />}
      </Field>
    </Form>
  );
}

export function DeleteDialog({ box, one, onClose }: Given & { one: Checkpoint }): ReactNode {
  const say = useWords(checkpointWords);
  const sayShared = useWords(shared);
  const name = nameOf(one);
  return (
    <Form
      title={say("removeTitle", { name })}
      about={say("removeAbout")}
      act={sayShared("delete")}
      isDanger
      onClose={onClose}
      onSubmit={async () => {
        await (await bay.sandboxes.get(box.id)).deleteCheckpoint(one.id);
        tell(say("deleted", { name }));
        onClose();
      }}
    />
  );
}

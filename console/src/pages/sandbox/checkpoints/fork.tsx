/** The dialog that makes copies of a sandbox, from a checkpoint or as it is now. */

import type { Checkpoint, Sandbox } from "bay-sandbox";
import { type ReactNode, useState } from "react";
import { Link } from "react-router";
import { bay } from "@/bay";
import { useWords } from "@/lib/words";
import { useSavesMemory } from "@/profiles";
import { called } from "@/sandboxes";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Check, Field, Input } from "@/ui/fields";
import { Form, textOf } from "./form";
import { nameOf } from "./timeline";
import { checkpointWords } from "./words";

const MOST_FORKS = 100;

/** `one`: the checkpoint that they begin from; null for the sandbox as it is now. */
export default function ForkDialog({
  box,
  one,
  onClose,
}: {
  box: Sandbox;
  one: Checkpoint | null;
  onClose(): void;
}): ReactNode {
  const say = useWords(checkpointWords);
  const [made, setMade] = useState<Sandbox[]>([]);
  const runs = useSavesMemory(box) && box.compute !== "cold";
  const offersMemory = one === null ? runs : one.kind === "memory";
  const name = one === null ? called(box) : nameOf(one);
  if (made.length) {
    return (
      <Dialog open onOpenChange={onClose} title={say("forkTitle", { name })} about={say("forked")}>
        <ul className="mb-4 flex flex-col gap-1">
          {made.map((box) => (
            <li key={box.id}>
              <Link
                className="block truncate rounded-lg bg-raised px-3 py-2 text-sm font-medium text-accent hover:underline"
                to={`/console/sandboxes/${called(box)}`}
              >
                {called(box)}
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
      about={say(one === null ? "forkNowAbout" : "forkAbout")}
      act={say("forkGo")}
      onClose={onClose}
      onSubmit={async (given) => {
        const wantedName = textOf(given, "name");
        const copies = await (await bay.sandboxes.get(box.id)).fork({
          count: Number(textOf(given, "count")),
          ...(wantedName && { name: wantedName }),
          ...(one && { checkpoint: one }),
          ...(offersMemory && { memory: given.has("memory") }),
        });
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
      {offersMemory ? <Check name="memory" label={say("forkMemory")} defaultChecked={one !== null} /> : null}
    </Form>
  );
}

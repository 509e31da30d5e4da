/** What asks before something is made of a checkpoint, or lost. */

import { useQueryClient } from "@tanstack/react-query";
import type { Checkpoint, Sandbox } from "bay-sandbox";
import type { ReactNode } from "react";
import { bay } from "@/bay";
import { useWords } from "@/lib/words";
import { put } from "@/live";
import { useSavesMemory } from "@/profiles";
import { Check, Field, Input } from "@/ui/fields";
import { tell } from "@/ui/toasts";
import { shared } from "@/words";
import { Form, textOf } from "./form";
import { nameOf } from "./timeline";
import { checkpointWords } from "./words";

interface Given {
  box: Sandbox;
  onClose(): void;
}

export function MakeDialog({ box, onClose }: Given): ReactNode {
  const say = useWords(checkpointWords);
  const sayShared = useWords(shared);
  const offersMemory = useSavesMemory(box) && box.compute !== "cold";
  return (
    <Form
      title={say("make")}
      about={say("makeAbout")}
      act={say("makeGo")}
      onClose={onClose}
      onSubmit={async (given) => {
        const name = textOf(given, "name");
        const comment = textOf(given, "comment");
        const wanted = { ...(name && { name }), ...(comment && { comment }), memory: given.has("memory") };
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
      {offersMemory ? <Check name="memory" label={say("makeMemory")} /> : null}
    </Form>
  );
}

export function RestoreDialog({ box, one, onClose }: Given & { one: Checkpoint }): ReactNode {
  const say = useWords(checkpointWords);
  const cache = useQueryClient();
  const name = nameOf(one);
  const hasMemory = one.kind === "memory";
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
        put(cache, await found.restore(one.id, hasMemory ? { memory: given.has("memory") } : {}));
        tell(say(given.has("memory") ? "restoredMemory" : "restored", { name }));
        onClose();
      }}
    >
      <Check name="first" label={say("restoreFirst")} defaultChecked />
      {hasMemory ? <Check name="memory" label={say("restoreMemory")} defaultChecked /> : null}
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

import { useQueryClient } from "@tanstack/react-query";
import type { Template } from "bay-sandbox";
import { type FormEvent, type ReactNode, useState } from "react";
import { bay, said } from "@/bay";
import { useWords } from "@/lib/words";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Field, Input } from "@/ui/fields";
import { shared } from "@/words";
import { nameOf, templatesQuery } from "./query";
import { templateWords } from "./words";

/** One more name by which a template is found. */
export function AddTag({ template, onClose }: { template: Template; onClose(): void }): ReactNode {
  const say = useWords(templateWords);
  const sayShared = useWords(shared);
  const cache = useQueryClient();
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const target = String(new FormData(event.currentTarget).get("target") ?? "").trim();
    setBusy(true);
    setProblem("");
    try {
      await bay.templates.tag(template.id, target);
      await cache.invalidateQueries({ queryKey: templatesQuery.queryKey });
      onClose();
    } catch (failure) {
      setProblem(said(failure));
      setBusy(false);
    }
  };
  return (
    <Dialog
      open
      onOpenChange={(open) => open || onClose()}
      title={say("tagTitle", { name: nameOf(template) })}
    >
      <form onSubmit={submit} className="grid gap-4">
        <Field label={say("target")} hint={say("targetHint")} error={problem}>
          {(at) => <Input {...at} name="target" required placeholder={`${template.name}:stable`} />}
        </Field>
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>{sayShared("cancel")}</Button>
          <Button kind="primary" type="submit" busy={busy}>
            {sayShared("save")}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

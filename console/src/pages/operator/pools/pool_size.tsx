import { useQueryClient } from "@tanstack/react-query";
import type { Template } from "bay-sandbox";
import { type FormEvent, type ReactNode, useState } from "react";
import { bay, said } from "@/bay";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { nameOf, templatesQuery } from "@/pages/templates/query";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Field, Input } from "@/ui/fields";
import { shared } from "@/words";
import { poolWords } from "./words";

/** How many sandboxes of a template wait. */
export function PoolSize({ template, onClose }: { template: Template; onClose(): void }): ReactNode {
  const say = useWords(poolWords);
  const sayShared = useWords(shared);
  const cache = useQueryClient();
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    const most = String(given.get("most") ?? "").trim();
    setBusy(true);
    setProblem("");
    try {
      await bay.templates.update(template.id, {
        poolSize: Number(given.get("size")),
        poolMax: most === "" ? null : Number(most),
      });
      await cache.invalidateQueries({ queryKey: templatesQuery.queryKey });
      await cache.invalidateQueries({ queryKey: keys.nouns("pools") });
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
      title={say("sizeTitle", { name: nameOf(template) })}
      about={say("about")}
    >
      <form onSubmit={submit} className="grid gap-4">
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label={say("poolSize")} hint={say("poolSizeHint")} error={problem}>
            {(at) => (
              <Input {...at} name="size" type="number" min="0" required defaultValue={template.pool_size} />
            )}
          </Field>
          <Field label={say("poolMax")} hint={say("poolMaxHint")}>
            {(at) => (
              <Input {...at} name="most" type="number" min="0" defaultValue={template.pool_max ?? ""} />
            )}
          </Field>
        </div>
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

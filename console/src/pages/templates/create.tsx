import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useState } from "react";
import { bay, said } from "@/bay";
import { useWords } from "@/lib/words";
import { called, sandboxesQuery } from "@/sandboxes";
import { useMe } from "@/sign_in";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Check, Field, Input, Select } from "@/ui/fields";
import { shared } from "@/words";
import { templatesQuery } from "./query";
import { templateWords } from "./words";

/** Freezes a sandbox into a template. The list shows how far that is: the SDK's `create` would wait for it. */
export function CreateTemplate({ onClose }: { onClose(): void }): ReactNode {
  const say = useWords(templateWords);
  const sayShared = useWords(shared);
  const me = useMe();
  const cache = useQueryClient();
  const boxes = useQuery(sandboxesQuery);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    const text = (name: string): string => String(given.get(name) ?? "").trim();
    setBusy(true);
    setProblem("");
    try {
      const body = {
        name: text("name"),
        sandbox: text("sandbox"),
        ...(text("tag") ? { tag: text("tag") } : {}),
        ...(text("start") ? { start_command: text("start") } : {}),
        ...(given.get("shared") ? { shared: true } : {}),
      };
      await bay.request({ method: "POST", path: "/v1/templates", body });
      await cache.invalidateQueries({ queryKey: templatesQuery.queryKey });
      onClose();
    } catch (failure) {
      setProblem(said(failure));
      setBusy(false);
    }
  };
  const hint = boxes.data?.length === 0 ? say("noSandboxes") : say("machineOnly");
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={say("new")} about={say("newAbout")}>
      <form onSubmit={submit} className="grid gap-4">
        <Field label={say("sandbox")} hint={hint} error={problem}>
          {(at) => (
            <Select {...at} name="sandbox" required>
              {boxes.data?.map((box) => (
                <option key={box.id} value={box.id}>
                  {called(box)}
                </option>
              ))}
            </Select>
          )}
        </Field>
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label={sayShared("name")}>
            {(at) => <Input {...at} name="name" required maxLength={63} placeholder="web" />}
          </Field>
          <Field label={say("tagName")} hint={say("tagHint")}>
            {(at) => <Input {...at} name="tag" maxLength={63} placeholder="latest" />}
          </Field>
        </div>
        <Field label={say("startCommand")} hint={say("startHint")}>
          {(at) => <Input {...at} name="start" className="font-mono" />}
        </Field>
        {me.scope === "admin" ? <Check name="shared" label={say("share")} /> : null}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>{sayShared("cancel")}</Button>
          <Button kind="primary" type="submit" busy={busy}>
            {sayShared("create")}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

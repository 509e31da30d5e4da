import type { EventType, Webhook } from "bay-sandbox";
import { type FormEvent, type ReactNode, useState } from "react";
import { bay, said } from "@/bay";
import { useWords } from "@/lib/words";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Check, Field, Input } from "@/ui/fields";
import { shared } from "@/words";
import { GROUPS, toggled } from "./types";
import { webhookWords } from "./words";

/** The form of a new webhook. */
export function CreateWebhook({
  onClose,
  onMade,
}: {
  onClose(): void;
  onMade(hook: Webhook): Promise<void>;
}): ReactNode {
  const say = useWords(webhookWords);
  const sayShared = useWords(shared);
  const [chosen, setChosen] = useState<ReadonlySet<EventType>>(new Set());
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const url = String(new FormData(event.currentTarget).get("url") ?? "").trim();
    setBusy(true);
    setProblem("");
    try {
      await onMade(await bay.webhooks.create(url, [...chosen]));
    } catch (failure) {
      setProblem(said(failure));
      setBusy(false);
    }
  };
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={say("new")}>
      <form onSubmit={submit} className="grid gap-4">
        <Field label={say("url")} hint={say("urlHint")} error={problem}>
          {(at) => (
            <Input {...at} name="url" type="url" required placeholder="https://example.com/bay-events" />
          )}
        </Field>
        <fieldset>
          <legend className="text-sm font-medium">{say("types")}</legend>
          <p className="text-xs text-muted">
            {chosen.size ? say("chosen", { count: chosen.size }) : say("typesAbout")}
          </p>
          <div className="mt-2 grid gap-1">
            {GROUPS.map(([group, types]) => {
              const number = types.filter((type) => chosen.has(type)).length;
              return (
                <details key={group} className="rounded-lg border">
                  <summary className="cursor-pointer px-3 py-2 text-sm">
                    <code>{group}</code>
                    <span className="ml-2 text-xs text-muted">
                      {number} / {types.length}
                    </span>
                  </summary>
                  <div className="grid gap-2 border-t px-3 py-2.5 sm:grid-cols-2">
                    <Check
                      className="font-medium sm:col-span-2"
                      label={say("wholeGroup", { group })}
                      checked={number === types.length}
                      onChange={() => setChosen(toggled(chosen, types))}
                    />
                    {types.map((type) => (
                      <Check
                        key={type}
                        label={type}
                        checked={chosen.has(type)}
                        onChange={() => setChosen(toggled(chosen, [type]))}
                      />
                    ))}
                  </div>
                </details>
              );
            })}
          </div>
        </fieldset>
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

import { useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useState } from "react";
import { bay, said } from "@/bay";
import { useWords } from "@/lib/words";
import { useMe } from "@/sign_in";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Check, Field, Input, Select } from "@/ui/fields";
import { shared } from "@/words";
import { imagesQuery } from "./query";
import { imageWords } from "./words";

/** Begin a pull. The list shows how it goes: the SDK's `pull` would wait for its end. */
export async function pull(body: {
  ref: string;
  pull: "always" | "missing";
  shared?: boolean;
}): Promise<void> {
  await bay.request({ method: "POST", path: "/v1/images", body });
}

export function PullDialog({ onClose }: { onClose(): void }): ReactNode {
  const say = useWords(imageWords);
  const sayShared = useWords(shared);
  const me = useMe();
  const cache = useQueryClient();
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    setBusy(true);
    setProblem("");
    try {
      await pull({
        ref: String(given.get("ref") ?? "").trim(),
        pull: given.get("when") === "missing" ? "missing" : "always",
        ...(given.get("shared") ? { shared: true } : {}),
      });
      await cache.invalidateQueries({ queryKey: imagesQuery.queryKey });
      onClose();
    } catch (failure) {
      setProblem(said(failure));
      setBusy(false);
    }
  };
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={say("pull")}>
      <form onSubmit={submit} className="grid gap-4">
        <Field label={say("reference")} hint={say("refHint")} error={problem}>
          {(at) => <Input {...at} name="ref" required maxLength={512} className="font-mono" />}
        </Field>
        <Field label={say("when")}>
          {(at) => (
            <Select {...at} name="when">
              <option value="always">{say("always")}</option>
              <option value="missing">{say("missing")}</option>
            </Select>
          )}
        </Field>
        {me.scope === "admin" ? <Check name="shared" label={say("share")} /> : null}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>{sayShared("cancel")}</Button>
          <Button kind="primary" type="submit" busy={busy}>
            {say("pull")}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

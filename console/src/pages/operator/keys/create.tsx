import type { Key, KeyOptions, NewKey } from "bay-sandbox";
import { type FormEvent, type ReactNode, useState } from "react";
import { bay, said } from "@/bay";
import { useWords } from "@/lib/words";
import { useMe } from "@/sign_in";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Check, Field, Input, Select } from "@/ui/fields";
import { shared } from "@/words";
import { QUOTAS, quotasOf } from "./states";
import { keyWords } from "./words";

const SCOPES = ["read", "write", "admin"] as const;
const LIFETIMES = { month: "30d", day: "1d", week: "7d", quarter: "90d", year: "365d", forever: "" } as const;

/** The form of a new key. */
export function CreateKey({
  onClose,
  onMade,
}: {
  onClose(): void;
  onMade(key: NewKey): Promise<void>;
}): ReactNode {
  const say = useWords(keyWords);
  const sayShared = useWords(shared);
  const me = useMe();
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    const text = (name: string): string => String(given.get(name) ?? "").trim();
    const quotas = quotasOf(given);
    const options: KeyOptions = { scope: text("scope") as Key["scope"] };
    if (text("owner")) options.owner = text("owner");
    if (text("lifetime")) options.expiresIn = text("lifetime");
    if (given.get("e2b")) options.e2b = true;
    if (quotas) options.quotas = quotas;
    setBusy(true);
    setProblem("");
    try {
      await onMade(await bay.keys.create(text("name"), options));
    } catch (failure) {
      setProblem(said(failure));
      setBusy(false);
    }
  };
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={say("new")}>
      <form onSubmit={submit} className="grid gap-4">
        <Field label={sayShared("name")} hint={say("nameHint")}>
          {(at) => <Input {...at} name="name" required maxLength={128} placeholder="ci" />}
        </Field>
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label={say("owner")} hint={say("ownerHint", { owner: me.owner })}>
            {(at) => <Input {...at} name="owner" maxLength={63} placeholder={me.owner} />}
          </Field>
          <Field label={say("expiry")}>
            {(at) => (
              <Select {...at} name="lifetime">
                {(Object.keys(LIFETIMES) as (keyof typeof LIFETIMES)[]).map((name) => (
                  <option key={name} value={LIFETIMES[name]}>
                    {say(name)}
                  </option>
                ))}
              </Select>
            )}
          </Field>
        </div>
        <Field label={say("scope")}>
          {(at) => (
            <Select {...at} name="scope" defaultValue="write">
              {SCOPES.map((one) => (
                <option key={one} value={one}>
                  {say(`${one}About`)}
                </option>
              ))}
            </Select>
          )}
        </Field>
        <details>
          <summary className="cursor-pointer text-sm font-medium">{say("quotas")}</summary>
          <p className="mt-1 text-xs text-muted">{say("quotasAbout")}</p>
          <div className="mt-3 grid grid-cols-2 gap-3">
            {QUOTAS.map((name) => (
              <Field key={name} label={say(name)}>
                {(at) => (
                  <Input {...at} name={name} type="number" min="0" step={name === "cpus" ? "any" : "1"} />
                )}
              </Field>
            ))}
          </div>
        </details>
        <Check name="e2b" label={say("e2b")} />
        {problem ? (
          <p role="alert" className="text-sm break-words text-bad">
            {problem}
          </p>
        ) : null}
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

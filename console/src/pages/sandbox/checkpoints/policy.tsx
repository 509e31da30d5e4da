/** When Bay makes checkpoints by itself, and how many it keeps. */

import { useQueryClient } from "@tanstack/react-query";
import type { Sandbox } from "bay-sandbox";
import { type FormEvent, type ReactNode, useState } from "react";
import { bay, said } from "@/bay";
import { duration } from "@/lib/format";
import { type Say, useWords } from "@/lib/words";
import { put } from "@/live";
import { useSavesMemory } from "@/profiles";
import { Button } from "@/ui/button";
import { Check, Field, Input, Select } from "@/ui/fields";
import { Panel } from "@/ui/panel";
import { shared } from "@/words";
import { checkpointWords } from "./words";

const CHOICES = [300, 900, 3600, 21_600, 86_400] as const;
const MOST = 1000;

function shown(policy: Sandbox["checkpoint_policy"], say: Say<(typeof checkpointWords)["en"]>): string {
  if (!policy || (!policy.every && !policy.before_stop)) return say("policyNone");
  const values = { every: policy.every ? duration(policy.every) : "", keep: policy.keep_last };
  if (policy.every && policy.before_stop) return say("policyBoth", values);
  return policy.every ? say("policyEvery", values) : say("policyStop", values);
}

export function Policy({ box, mayChange }: { box: Sandbox; mayChange: boolean }): ReactNode {
  const say = useWords(checkpointWords);
  const sayShared = useWords(shared);
  const cache = useQueryClient();
  const [isOpen, setOpen] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const policy = box.checkpoint_policy;
  const offersMemory = useSavesMemory(box) || policy?.memory === true;
  const every = policy?.every ?? null;

  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    const seconds = Number(given.get("every"));
    const before = given.has("before_stop");
    setBusy(true);
    setProblem("");
    try {
      const keep = Number(given.get("keep"));
      const memory = given.has("memory");
      const wanted = { every: seconds || null, keep_last: keep, before_stop: before, memory };
      const checkpointPolicy = seconds || before ? wanted : null;
      put(cache, await (await bay.sandboxes.get(box.id)).update({ checkpointPolicy }));
      setOpen(false);
    } catch (error) {
      setProblem(said(error));
    }
    setBusy(false);
  };
  return (
    <Panel
      title={say("policy")}
      acts={mayChange && !isOpen ? <Button onClick={() => setOpen(true)}>{say("change")}</Button> : null}
    >
      {isOpen ? (
        <form onSubmit={submit} className="flex flex-col gap-4 p-4">
          <Field label={say("every")}>
            {(at) => (
              <Select {...at} name="every" defaultValue={String(every ?? 0)}>
                <option value="0">{say("everyNever")}</option>
                {CHOICES.map((one) => (
                  <option key={one} value={one}>
                    {say(`every${one}`)}
                  </option>
                ))}
                {every !== null && !CHOICES.some((one) => one === every) ? (
                  <option value={every}>{say("everyOther", { every: duration(every) })}</option>
                ) : null}
              </Select>
            )}
          </Field>
          <Field label={say("keep")} hint={say("keepHint")} error={problem}>
            {(at) => (
              <Input
                {...at}
                name="keep"
                type="number"
                min={1}
                max={MOST}
                required
                defaultValue={policy?.keep_last ?? 10}
              />
            )}
          </Field>
          <Check name="before_stop" label={say("beforeStop")} defaultChecked={policy?.before_stop ?? false} />
          {offersMemory ? (
            <Check name="memory" label={say("policyMemory")} defaultChecked={policy?.memory ?? false} />
          ) : null}
          <div className="flex justify-end gap-2">
            <Button onClick={() => setOpen(false)}>{sayShared("cancel")}</Button>
            <Button kind="primary" type="submit" busy={isBusy}>
              {sayShared("save")}
            </Button>
          </div>
        </form>
      ) : (
        <p className="px-4 py-3 text-sm text-muted">
          {shown(policy, say)} {policy?.memory ? say("policyHasMemory") : null}
        </p>
      )}
    </Panel>
  );
}

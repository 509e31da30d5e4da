/** The dialog that makes a sandbox of a profile, an image, a template or a checkpoint. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { CreateOptions } from "bay-sandbox";
import { type FormEvent, type ReactNode, useState } from "react";
import { useNavigate, useSearchParams } from "react-router";
import { bay, said } from "@/bay";
import { useWords } from "@/lib/words";
import { keys, put } from "@/live";
import { profilesQuery } from "@/profiles";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Check, Field, Input, Select, TextArea } from "@/ui/fields";
import { shared } from "@/words";
import { labelsOf } from "./labels";
import { listWords } from "./words";

const SOURCES = ["profile", "image", "template", "checkpoint"] as const;
type Source = (typeof SOURCES)[number];
const NAMES = {
  profile: "fromProfile",
  image: "fromImage",
  template: "fromTemplate",
  checkpoint: "fromCheckpoint",
} as const;
const NETWORKS = {
  "": "networkProfile",
  none: "networkNone",
  allowlist: "networkAllowlist",
  open: "networkOpen",
} as const;

export default function CreateDialog({ onClose }: { onClose(): void }): ReactNode {
  const say = useWords(listWords);
  const sayShared = useWords(shared);
  const go = useNavigate();
  const cache = useQueryClient();
  const [query] = useSearchParams();
  const [source, setSource] = useState<Source>(SOURCES.find((one) => query.has(one)) ?? "profile");
  const [problem, setProblem] = useState<string>("");
  const [busy, setBusy] = useState(false);
  const profiles = useQuery(profilesQuery);
  const templates = useQuery({
    queryKey: keys.nouns("templates"),
    queryFn: async () => Array.fromAsync(bay.templates.list()),
    enabled: source === "template",
  });

  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    const text = (name: string): string => String(given.get(name) ?? "").trim();
    setBusy(true);
    setProblem("");
    try {
      const wanted: CreateOptions = { labels: labelsOf(text("labels"), (line) => say("badLabel", { line })) };
      if (text("name")) wanted.name = text("name");
      if (text("profile")) wanted.profile = text("profile");
      if (source === "image") wanted.image = text("image");
      if (source === "template") wanted.template = text("template");
      if (source === "checkpoint") wanted.fromCheckpoint = text("checkpoint");
      if (text("ttl")) wanted.ttl = text("ttl");
      if (text("network")) wanted.network = text("network") as NonNullable<CreateOptions["network"]>;
      if (text("cpus")) wanted.cpus = Number(text("cpus"));
      if (text("memory")) wanted.memoryMb = Number(text("memory"));
      const box = await bay.sandboxes.create(wanted);
      put(cache, box.info);
      if (given.get("start")) put(cache, await box.start());
      await go(`/console/sandboxes/${box.name ?? box.id}`);
    } catch (failure) {
      setProblem(said(failure));
      setBusy(false);
    }
  };

  return (
    <Dialog
      open
      onOpenChange={(open) => open || onClose()}
      title={say("createTitle")}
      about={say("createAbout")}
    >
      <form onSubmit={submit} className="flex flex-col gap-4">
        <Field label={sayShared("name")} hint={say("nameHint")}>
          {(at) => <Input {...at} name="name" maxLength={63} placeholder="demo" />}
        </Field>
        <fieldset>
          <legend className="mb-1 text-sm font-medium">{say("source")}</legend>
          <div className="flex flex-wrap gap-1.5">
            {SOURCES.map((one) => (
              <label
                key={one}
                className="cursor-pointer rounded-lg border border-strong-line px-3 py-1.5 text-sm has-checked:border-accent has-checked:bg-accent-soft has-checked:font-medium has-focus-visible:outline-2 has-focus-visible:outline-accent"
              >
                <input
                  type="radio"
                  name="source"
                  className="sr-only"
                  checked={source === one}
                  onChange={() => setSource(one)}
                />
                {say(NAMES[one])}
              </label>
            ))}
          </div>
        </fieldset>
        {source === "image" ? (
          <Field label={say("image")} hint={say("imageHint")}>
            {(at) => <Input {...at} name="image" required defaultValue={query.get("image") ?? ""} />}
          </Field>
        ) : null}
        {source === "template" ? (
          <Field label={say("template")} hint={templates.data?.length === 0 ? say("noTemplates") : ""}>
            {(at) => (
              // Made again once the choices are there: only then can one of them be chosen.
              <Select
                {...at}
                key={templates.status}
                name="template"
                required
                defaultValue={query.get("template") ?? undefined}
              >
                {templates.data?.map((one) => (
                  <option key={one.id} value={one.id}>
                    {one.name}:{one.tag}
                  </option>
                ))}
              </Select>
            )}
          </Field>
        ) : null}
        {source === "checkpoint" ? (
          <Field label={say("checkpoint")} hint={say("checkpointHint")}>
            {(at) => (
              <Input {...at} name="checkpoint" required defaultValue={query.get("checkpoint") ?? ""} />
            )}
          </Field>
        ) : null}
        <Field label={say("profile")}>
          {(at) => (
            <Select {...at} name="profile">
              {profiles.data?.map((one) => (
                <option key={one.id} value={one.id}>
                  {one.description ? `${one.id} – ${one.description}` : one.id}
                </option>
              ))}
            </Select>
          )}
        </Field>
        <details className="rounded-lg border px-3 py-2">
          <summary className="cursor-pointer text-sm font-medium">{say("more")}</summary>
          <div className="mt-3 grid gap-4 sm:grid-cols-2">
            <Field label={say("cpus")}>
              {(at) => <Input {...at} name="cpus" type="number" min="0.1" step="0.1" inputMode="decimal" />}
            </Field>
            <Field label={say("memory")}>
              {(at) => <Input {...at} name="memory" type="number" min="16" step="1" inputMode="numeric" />}
            </Field>
            <Field label={say("network")}>
              {(at) => (
                <Select {...at} name="network">
                  {Object.entries(NETWORKS).map(([value, name]) => (
                    <option key={value} value={value}>
                      {say(name)}
                    </option>
                  ))}
                </Select>
              )}
            </Field>
            <Field label={say("ttl")} hint={say("ttlHint")}>
              {(at) => <Input {...at} name="ttl" />}
            </Field>
            <div className="sm:col-span-2">
              <Field label={say("label")} hint={say("labelHint")}>
                {(at) => <TextArea {...at} name="labels" rows={2} />}
              </Field>
            </div>
          </div>
        </details>
        <Check label={say("startNow")} name="start" defaultChecked />
        {problem ? (
          <p role="alert" className="rounded-lg bg-bad-soft px-3 py-2 text-sm break-words text-bad">
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

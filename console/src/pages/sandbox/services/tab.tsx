/** The commands that start with a sandbox and are kept running. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { Sandbox, Service, ServiceSpec } from "bay-sandbox";
import {
  Cog,
  EllipsisVertical,
  Pencil,
  Play,
  Plus,
  RotateCw,
  ScrollText,
  Square,
  Trash2,
} from "lucide-react";
import { type FormEvent, type ReactNode, useState } from "react";
import { bay, said } from "@/bay";
import { shellLine, shellWords } from "@/lib/shell_words";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { mayWrite, useMe } from "@/sign_in";
import { Badge, type Tone } from "@/ui/badge";
import { Button, IconButton } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Field, Input, Select } from "@/ui/fields";
import { Menu } from "@/ui/menu";
import { Moment } from "@/ui/moment";
import { Panel } from "@/ui/panel";
import { Empty, Failed, Loading } from "@/ui/states";
import { tellError } from "@/ui/toasts";
import { shared } from "@/words";
import { Output } from "./output";
import { serviceWords } from "./words";

/** A service's own state makes an event only when it fails: it is looked at while it is on the screen. */
const LOOK_MS = 2_000;
const TONES: Record<Service["state"], Tone> = {
  running: "good",
  waiting: "warn",
  backoff: "warn",
  failed: "bad",
  exited: "idle",
  stopped: "idle",
};

export default function Services({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(serviceWords);
  const cache = useQueryClient();
  const writes = mayWrite(useMe());
  const [form, setForm] = useState<Service | "new" | null>(null);
  const [logs, setLogs] = useState<string | null>(null);
  const key = keys.of(box.id, "services");
  const { data, error, refetch } = useQuery({
    queryKey: key,
    queryFn: async ({ signal }) => (await bay.sandboxes.get(box.id, { signal })).services.list({ signal }),
    refetchInterval: box.compute === "running" ? LOOK_MS : false,
  });
  if (error) return <Failed error={error} retry={() => void refetch()} />;
  if (data === undefined) return <Loading />;
  const act = async (
    work: (services: Awaited<ReturnType<typeof bay.sandboxes.get>>["services"]) => Promise<unknown>,
  ): Promise<void> => {
    try {
      await work((await bay.sandboxes.get(box.id)).services);
      await cache.invalidateQueries({ queryKey: key });
    } catch (failure) {
      tellError(failure);
    }
  };
  const add = writes ? (
    <Button kind="primary" icon={<Plus aria-hidden />} onClick={() => setForm("new")}>
      {say("new")}
    </Button>
  ) : null;
  return (
    <div className="grid gap-4 p-4">
      <Panel title={say("title")} acts={data.length ? add : null}>
        {data.length === 0 ? (
          <Empty icon={<Cog />} title={say("none")}>
            <p>{say("noneAbout")}</p>
            {add}
          </Empty>
        ) : null}
        <ul>
          {data.map((service) => (
            <li key={service.name} className="border-t px-4 py-3 first:border-t-0">
              <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
                <span className="font-medium">{service.name}</span>
                <Badge tone={TONES[service.state]} dot>
                  {say(service.state)}
                </Badge>
                {service.healthy === null ? null : (
                  <Badge tone={service.healthy ? "good" : "bad"}>
                    {say(service.healthy ? "healthy" : "unhealthy")}
                  </Badge>
                )}
                {service.restarts ? (
                  <span className="text-xs text-muted">{say("restarts", { count: service.restarts })}</span>
                ) : null}
                {service.started_at ? (
                  <span className="text-xs text-muted">
                    {say("since")} <Moment at={service.started_at} />
                  </span>
                ) : null}
                <span className="ml-auto flex gap-1">
                  <IconButton
                    label={say(logs === service.name ? "hideLogs" : "logs")}
                    aria-pressed={logs === service.name}
                    onClick={() => setLogs(logs === service.name ? null : service.name)}
                  >
                    <ScrollText aria-hidden />
                  </IconButton>
                  {writes ? (
                    <Menu
                      label={say("actsOf", { name: service.name })}
                      trigger={
                        <IconButton label={say("actsOf", { name: service.name })}>
                          <EllipsisVertical aria-hidden />
                        </IconButton>
                      }
                      items={[
                        {
                          label: say("start"),
                          icon: <Play aria-hidden />,
                          onSelect: () => void act((all) => all.start(service.name)),
                        },
                        {
                          label: say("again"),
                          icon: <RotateCw aria-hidden />,
                          onSelect: () => void act((all) => all.restart(service.name)),
                        },
                        {
                          label: say("stop"),
                          icon: <Square aria-hidden />,
                          onSelect: () => void act((all) => all.stop(service.name)),
                        },
                        {
                          label: say("edit", { name: service.name }),
                          icon: <Pencil aria-hidden />,
                          onSelect: () => setForm(service),
                        },
                        "line",
                        {
                          label: say("delete"),
                          icon: <Trash2 aria-hidden />,
                          danger: true,
                          onSelect: () => void act((all) => all.delete(service.name)),
                        },
                      ]}
                    />
                  ) : null}
                </span>
              </div>
              <code className="mt-1 block truncate text-xs text-muted">{shellLine(service.argv)}</code>
              {service.message ? <p className="mt-1 text-xs text-bad">{service.message}</p> : null}
              {logs === service.name ? <Output box={box} name={service.name} /> : null}
            </li>
          ))}
        </ul>
      </Panel>
      {form ? (
        <Form
          service={form === "new" ? null : form}
          onClose={() => setForm(null)}
          save={async (spec) => {
            await (await bay.sandboxes.get(box.id)).services.put(spec);
            await cache.invalidateQueries({ queryKey: key });
          }}
        />
      ) : null}
    </div>
  );
}

function Form({
  service,
  onClose,
  save,
}: {
  service: Service | null;
  onClose(): void;
  save(spec: ServiceSpec): Promise<void>;
}): ReactNode {
  const say = useWords(serviceWords);
  const sayShared = useWords(shared);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    const text = (name: string): string => String(given.get(name) ?? "").trim();
    const argv = shellWords(text("command"));
    if (argv === null) return setProblem(say("openQuote"));
    setBusy(true);
    setProblem("");
    try {
      await save({
        ...(service ? kept(service) : {}),
        name: service?.name ?? text("name"),
        argv,
        cwd: text("cwd") || null,
        http_port: text("port") ? Number(text("port")) : null,
        restart: text("restart") as Service["restart"],
      });
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
      title={service ? say("edit", { name: service.name }) : say("new")}
    >
      <form onSubmit={submit} className="grid gap-4">
        {service ? null : (
          <Field label={say("name")}>
            {(at) => <Input {...at} name="name" required placeholder="web" />}
          </Field>
        )}
        <Field label={say("command")} hint={say("commandHint")} error={problem}>
          {(at) => (
            <Input
              {...at}
              name="command"
              required
              className="font-mono"
              defaultValue={service ? shellLine(service.argv) : ""}
            />
          )}
        </Field>
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label={say("cwd")}>
            {(at) => <Input {...at} name="cwd" placeholder="/workspace" defaultValue={service?.cwd ?? ""} />}
          </Field>
          <Field label={say("httpPort")}>
            {(at) => (
              <Input
                {...at}
                name="port"
                type="number"
                min="1"
                max="65535"
                defaultValue={service?.http_port ?? ""}
              />
            )}
          </Field>
          <Field label={say("restart")}>
            {(at) => (
              <Select {...at} name="restart" defaultValue={service?.restart ?? "always"}>
                <option value="always">{say("always")}</option>
                <option value="on-failure">{say("onFailure")}</option>
                <option value="never">{say("never")}</option>
              </Select>
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

/** What the form does not show of a service, and a change must not lose. */
function kept({ env, user, needs, health, enabled }: Service): Partial<ServiceSpec> {
  return { env, user, needs, health, enabled } as Partial<ServiceSpec>;
}

/** The receivers of the caller's events, and how the deliveries to each go. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { Webhook } from "bay-sandbox";
import { Plus, Trash2, Webhook as WebhookIcon } from "lucide-react";
import { type ReactNode, useState } from "react";
import { bay } from "@/bay";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { mayWrite, useMe } from "@/sign_in";
import { Badge } from "@/ui/badge";
import { Button, IconButton } from "@/ui/button";
import { Moment } from "@/ui/moment";
import { PageFrame } from "@/ui/page_frame";
import { Panel } from "@/ui/panel";
import { Question } from "@/ui/question";
import { ShownOnce } from "@/ui/shown_once";
import { Answered, Empty } from "@/ui/states";
import { shared } from "@/words";
import { CreateWebhook } from "./create";
import { webhookWords } from "./words";

/** No event says how a delivery went; it is read while it is looked at. */
const EVERY_MS = 10_000;

export default function WebhooksPage(): ReactNode {
  const say = useWords(webhookWords);
  const sayShared = useWords(shared);
  const writes = mayWrite(useMe());
  const cache = useQueryClient();
  const key = keys.nouns("webhooks");
  const query = useQuery({
    queryKey: key,
    queryFn: ({ signal }) => bay.webhooks.list({ signal }),
    refetchInterval: EVERY_MS,
    staleTime: 0,
  });
  const [asks, setAsks] = useState(false);
  const [made, setMade] = useState<Webhook | null>(null);
  const [leaving, setLeaving] = useState<Webhook | null>(null);
  const again = (): Promise<void> => cache.invalidateQueries({ queryKey: key });
  const add = writes ? (
    <Button kind="primary" icon={<Plus aria-hidden />} onClick={() => setAsks(true)}>
      {say("new")}
    </Button>
  ) : null;
  return (
    <PageFrame title={say("title")} about={say("about")} acts={add}>
      <Answered
        query={query}
        none={
          <Empty icon={<WebhookIcon />} title={say("none")}>
            <p>{writes ? say("noneAbout") : sayShared("refused")}</p>
            <a
              href="/docs/events/#webhooks"
              className="font-medium text-accent underline"
              target="_blank"
              rel="noreferrer"
            >
              {say("howTo")}
            </a>
          </Empty>
        }
      >
        {(data) => (
          <ul className="grid gap-4 p-4">
            {data.map((hook) => (
              <li key={hook.id}>
                <Hook hook={hook} remove={writes ? () => setLeaving(hook) : null} />
              </li>
            ))}
          </ul>
        )}
      </Answered>
      {asks ? (
        <CreateWebhook
          onClose={() => setAsks(false)}
          onMade={async (hook) => {
            setAsks(false);
            setMade(hook);
            await again();
          }}
        />
      ) : null}
      {made ? (
        <ShownOnce
          title={say("madeTitle")}
          label={say("secret")}
          secret={made.secret ?? ""}
          words={say("once")}
          done={say("done")}
          onClose={() => setMade(null)}
        >
          <a href="/docs/events/#webhooks" className="text-accent underline" target="_blank" rel="noreferrer">
            {say("howTo")}
          </a>
        </ShownOnce>
      ) : null}
      {leaving ? (
        <Question
          title={say("deleteTitle")}
          yes={sayShared("delete")}
          onClose={() => setLeaving(null)}
          act={async () => {
            await bay.webhooks.delete(leaving.id);
            await again();
          }}
        >
          <p>{say("deleteAbout", { url: leaving.url })}</p>
        </Question>
      ) : null}
    </PageFrame>
  );
}

function Hook({ hook, remove }: { hook: Webhook; remove: (() => void) | null }): ReactNode {
  const say = useWords(webhookWords);
  const fails = hook.attempts > 0;
  return (
    <Panel
      title={<span className="block truncate font-mono font-medium">{hook.url}</span>}
      acts={
        <>
          <Badge tone={fails ? "bad" : "good"} dot>
            {say(fails ? "failing" : "delivers")}
          </Badge>
          {remove ? (
            <IconButton label={say("delete", { url: hook.url })} onClick={remove}>
              <Trash2 aria-hidden />
            </IconButton>
          ) : null}
        </>
      }
    >
      <div className="grid gap-3 px-4 py-3 text-sm">
        <div className="flex flex-wrap items-center gap-1.5">
          <span className="mr-1 text-xs text-muted">{say("types")}</span>
          {hook.types.length ? (
            hook.types.map((type) => (
              <code key={type} className="rounded-md bg-raised px-1.5 py-0.5 text-xs">
                {type}
              </code>
            ))
          ) : (
            <span>{say("all")}</span>
          )}
        </div>
        {fails ? (
          <div className="rounded-lg bg-bad-soft px-3 py-2 text-bad">
            <p className="font-medium">
              {say("attempts", { count: hook.attempts })}
              {hook.next_attempt_at ? (
                <span className="font-normal">
                  {" · "}
                  {say("next")} <Moment at={hook.next_attempt_at} />
                </span>
              ) : null}
            </p>
            {hook.last_error ? <p className="mt-0.5 break-words">{hook.last_error}</p> : null}
          </div>
        ) : null}
        <p className="text-xs text-muted">
          <span className="font-mono">{hook.id}</span> · {say("made")} <Moment at={hook.created_at} />
        </p>
      </div>
    </Panel>
  );
}

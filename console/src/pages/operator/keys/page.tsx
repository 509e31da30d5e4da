/** The keys of every owner. The secret of a new one is in this page's memory until its window is closed. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { Key, NewKey } from "bay-sandbox";
import { Ban, EllipsisVertical, KeyRound, Plus, ScrollText, Search } from "lucide-react";
import { type ReactNode, useMemo, useState } from "react";
import { useNavigate } from "react-router";
import { bay } from "@/bay";
import { bytes, count } from "@/lib/format";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { useMe } from "@/sign_in";
import { Badge, type Tone } from "@/ui/badge";
import { Button, IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { SearchInput, Select } from "@/ui/fields";
import { Menu } from "@/ui/menu";
import { Moment } from "@/ui/moment";
import { PageFrame } from "@/ui/page_frame";
import { Question } from "@/ui/question";
import { ShownOnce } from "@/ui/shown_once";
import { Answered, Empty } from "@/ui/states";
import { shared } from "@/words";
import { CreateKey } from "./create";
import { type KeyState, QUOTAS, stateOf, wantedKeys } from "./states";
import { keyWords } from "./words";

const MIB = 1 << 20;
const STATES = ["valid", "expired", "revoked"] as const;
const TONES: Record<KeyState, Tone> = { valid: "good", expired: "idle", revoked: "bad" };
const SCOPES: Record<Key["scope"], Tone> = { read: "idle", write: "accent", admin: "warn" };
const COLUMNS =
  "md:grid md:grid-cols-[minmax(10rem,2fr)_minmax(6rem,1fr)_5rem_6rem_8rem_9rem_2.5rem] md:items-center md:gap-3";

export default function KeysPage(): ReactNode {
  const say = useWords(keyWords);
  const cache = useQueryClient();
  const key = keys.nouns("keys");
  const query = useQuery({
    queryKey: key,
    queryFn: ({ signal }) => Array.fromAsync(bay.keys.list({ limit: 200, signal })),
  });
  const { data } = query;
  const [text, setText] = useState("");
  const [state, setState] = useState<KeyState | "">("");
  const [asks, setAsks] = useState(false);
  const [made, setMade] = useState<NewKey | null>(null);
  const [leaving, setLeaving] = useState<Key | null>(null);
  const shown = useMemo(() => wantedKeys(data ?? [], text, state), [data, text, state]);
  const again = (): Promise<void> => cache.invalidateQueries({ queryKey: key });

  return (
    <PageFrame
      title={say("title")}
      about={say("about")}
      acts={
        <Button kind="primary" icon={<Plus aria-hidden />} onClick={() => setAsks(true)}>
          {say("new")}
        </Button>
      }
    >
      <Answered
        query={query}
        none={
          <Empty icon={<KeyRound />} title={say("none")}>
            <p>{say("noneAbout")}</p>
          </Empty>
        }
      >
        {() => (
          <>
            <div className="flex flex-wrap gap-2 px-4 py-3">
              <SearchInput
                className="min-w-0 flex-1 basis-48 sm:max-w-72"
                label={say("search")}
                value={text}
                onType={setText}
              />
              <Select
                aria-label={say("all")}
                value={state}
                onChange={(event) => setState(event.target.value as KeyState | "")}
                className="!w-auto"
              >
                <option value="">{say("all")}</option>
                {STATES.map((one) => (
                  <option key={one} value={one}>
                    {say(one)}
                  </option>
                ))}
              </Select>
            </div>
            {shown.length === 0 ? (
              <Empty icon={<Search />} title={say("nothing")}>
                <p>{say("nothingAbout")}</p>
                <Button
                  onClick={() => {
                    setText("");
                    setState("");
                  }}
                >
                  {say("showAll")}
                </Button>
              </Empty>
            ) : (
              <List found={shown} revoke={setLeaving} />
            )}
          </>
        )}
      </Answered>
      {asks ? (
        <CreateKey
          onClose={() => setAsks(false)}
          onMade={async (one) => {
            setAsks(false);
            setMade(one);
            await again();
          }}
        />
      ) : null}
      {made ? (
        <ShownOnce
          title={say("madeTitle", { name: made.name })}
          label={say("secret")}
          secret={made.secret ?? ""}
          words={say("once")}
          done={say("done")}
          onClose={() => setMade(null)}
        >
          {say("use")}
        </ShownOnce>
      ) : null}
      {leaving ? (
        <Question
          title={say("revokeTitle", { name: leaving.name })}
          yes={say("revoke")}
          onClose={() => setLeaving(null)}
          act={async () => {
            await bay.keys.revoke(leaving.id);
            await again();
          }}
        >
          <p>{say("revokeAbout", { owner: leaving.owner })}</p>
        </Question>
      ) : null}
    </PageFrame>
  );
}

function List({ found, revoke }: { found: readonly Key[]; revoke(key: Key): void }): ReactNode {
  const say = useWords(keyWords);
  const sayShared = useWords(shared);
  return (
    <div className="border-t bg-panel">
      <div
        aria-hidden
        className={cx(COLUMNS, "hidden border-b bg-page px-4 py-2 text-xs font-medium text-muted")}
      >
        <span>{sayShared("name")}</span>
        <span>{say("owner")}</span>
        <span>{say("scope")}</span>
        <span>{say("state")}</span>
        <span>{say("made")}</span>
        <span>{say("expires")}</span>
      </div>
      <ul>
        {found.map((key) => (
          <Row key={key.id} one={key} revoke={revoke} />
        ))}
      </ul>
    </div>
  );
}

function Row({ one, revoke }: { one: Key; revoke(key: Key): void }): ReactNode {
  const say = useWords(keyWords);
  const me = useMe();
  const go = useNavigate();
  const state = stateOf(one);
  return (
    <li className={cx(COLUMNS, "relative border-b px-4 py-2.5 text-sm")}>
      <div className="min-w-0 pr-10 md:pr-0">
        <span className={cx("block truncate font-medium", state !== "valid" && "text-muted")}>
          {one.name}
          {one.id === me.key_id ? (
            <span className="ml-2">
              <Badge tone="accent">{say("yours")}</Badge>
            </span>
          ) : null}
        </span>
        <span className="block truncate font-mono text-xs text-muted">{one.id}</span>
        <Limits one={one} />
      </div>
      <span className="mt-1 mr-3 inline-block max-w-full truncate align-bottom text-muted md:m-0">
        <span className="md:sr-only">{say("owner")} </span>
        {one.owner}
      </span>
      <span className="mr-2 md:m-0">
        <Badge tone={SCOPES[one.scope]}>{say(one.scope)}</Badge>
      </span>
      <span className="mr-3 md:m-0">
        <Badge tone={TONES[state]} dot>
          {say(state)}
        </Badge>
      </span>
      <span className="mt-1 block text-muted md:m-0">
        <span className="md:sr-only">{say("made")} </span>
        <Moment at={one.created_at} />
      </span>
      <span className="block text-muted">
        <span className="md:sr-only">{say(one.revoked_at ? "revokedAt" : "expires")} </span>
        {one.revoked_at ? (
          <Moment at={one.revoked_at} />
        ) : one.expires_at ? (
          <Moment at={one.expires_at} />
        ) : (
          say("never")
        )}
      </span>
      <span className="absolute top-2 right-3 md:static">
        <Menu
          label={say("actsOf", { name: one.name })}
          trigger={
            <IconButton label={say("actsOf", { name: one.name })}>
              <EllipsisVertical aria-hidden />
            </IconButton>
          }
          items={[
            {
              label: say("audit"),
              icon: <ScrollText aria-hidden />,
              onSelect: () => void go(`/console/operator/audit?key_id=${encodeURIComponent(one.id)}`),
            },
            "line",
            {
              label: say("revoke"),
              icon: <Ban aria-hidden />,
              danger: true,
              disabled: one.revoked_at !== null,
              onSelect: () => revoke(one),
            },
          ]}
        />
      </span>
    </li>
  );
}

function Limits({ one }: { one: Key }): ReactNode {
  const say = useWords(keyWords);
  const given = QUOTAS.flatMap((name) => {
    const value = one.quotas?.[name];
    if (value === undefined || value === null) return [];
    if (name === "memory_mb") return [`${say("memory")} ${bytes(value * MIB)}`];
    if (name === "disk_mb") return [`${say("files")} ${bytes(value * MIB)}`];
    return [`${say(name)} ${count(value)}`];
  });
  if (given.length === 0) return null;
  return (
    <span className="mt-1 block text-xs text-muted">
      {say("quotas")}: {given.join(" · ")}
    </span>
  );
}

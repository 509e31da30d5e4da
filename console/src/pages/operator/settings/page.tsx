/** The settings in force. Nothing is changed here: they are the operator's files and variables. */

import { useQuery } from "@tanstack/react-query";
import type { SettingInForce } from "bay-sandbox";
import { BookOpen, Search } from "lucide-react";
import { type ReactNode, useMemo, useState } from "react";
import { bay } from "@/bay";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { Badge, type Tone } from "@/ui/badge";
import { Button } from "@/ui/button";
import { Check, SearchInput } from "@/ui/fields";
import { PageFrame } from "@/ui/page_frame";
import { Answered, Empty } from "@/ui/states";
import { lineOf, wantedSettings } from "./search";
import { settingWords } from "./words";

const TONES: Record<NonNullable<SettingInForce["origin"]>, Tone> = {
  option: "accent",
  variable: "accent",
  file: "accent",
  default: "idle",
};

export default function SettingsPage(): ReactNode {
  const say = useWords(settingWords);
  const query = useQuery({
    queryKey: keys.nouns("settings"),
    queryFn: ({ signal }) => bay.admin.settings({ signal }),
    // Bay may have been restarted since.
    staleTime: 0,
  });
  const { data } = query;
  const [text, setText] = useState("");
  const [isSet, setIsSet] = useState(false);
  const shown = useMemo(() => wantedSettings(data ?? [], text, isSet), [data, text, isSet]);
  return (
    <PageFrame
      title={say("title")}
      about={say("about")}
      acts={
        <a
          href="/docs/settings/"
          target="_blank"
          rel="noreferrer"
          className="inline-flex min-h-9 items-center gap-2 text-sm font-medium text-accent hover:underline"
        >
          <BookOpen aria-hidden className="size-4" />
          {say("reference")}
        </a>
      }
    >
      <Answered query={query}>
        {(data) => (
          <>
            <div className="flex flex-wrap items-center gap-x-4 gap-y-2 px-4 py-3">
              <SearchInput
                className="min-w-0 flex-1 basis-64 sm:max-w-96"
                label={say("search")}
                value={text}
                onType={setText}
              />
              <Check
                label={say("changed")}
                checked={isSet}
                onChange={(event) => setIsSet(event.target.checked)}
              />
              <p role="status" className="text-sm text-muted">
                {say("shown", { shown: shown.length, all: data.length })}
              </p>
            </div>
            {shown.length ? (
              <dl className="border-t bg-panel">
                {shown.map((one) => (
                  <Row key={one.name} one={one} />
                ))}
              </dl>
            ) : (
              <Empty icon={<Search />} title={say("nothing")}>
                <p>{say("nothingAbout")}</p>
                <Button
                  onClick={() => {
                    setText("");
                    setIsSet(false);
                  }}
                >
                  {say("showAll")}
                </Button>
              </Empty>
            )}
          </>
        )}
      </Answered>
    </PageFrame>
  );
}

function Row({ one }: { one: SettingInForce }): ReactNode {
  const say = useWords(settingWords);
  const value = one.is_secret
    ? say(one.is_set ? "secretSet" : "secretUnset")
    : lineOf(one) || say(one.is_set ? "empty" : "unset");
  const isPlain = one.is_secret || lineOf(one) === "";
  return (
    <div className="grid gap-x-4 gap-y-1 border-b px-4 py-2.5 text-sm md:grid-cols-[minmax(0,2fr)_minmax(0,2fr)_6rem]">
      <dt className="min-w-0">
        <code className="font-medium break-all">{one.name}</code>
        <span className="block text-xs text-muted">{one.description.replaceAll("`", "")}</span>
      </dt>
      <dd className="min-w-0">
        <span className={isPlain ? "text-muted italic" : "font-mono text-[0.92em] break-all"}>{value}</span>
      </dd>
      <dd>
        <Badge tone={one.origin ? TONES[one.origin] : "idle"}>{say(one.origin ?? "unknown")}</Badge>
      </dd>
    </div>
  );
}

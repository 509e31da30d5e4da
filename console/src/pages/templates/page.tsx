/** Templates: what they are made of, their names and pools, and sandboxes that begin with them. */

import { useQuery } from "@tanstack/react-query";
import type { Template } from "bay-sandbox";
import {
  Boxes,
  EllipsisVertical,
  LayoutTemplate,
  Plus,
  Search,
  SlidersHorizontal,
  Tag,
  Trash2,
} from "lucide-react";
import { type ReactNode, useMemo, useState } from "react";
import { useNavigate } from "react-router";
import { bay } from "@/bay";
import { bytes, count } from "@/lib/format";
import { shellLine } from "@/lib/shell_words";
import { useWords } from "@/lib/words";
import { PoolSize } from "@/pages/operator/pools/pool_size";
import { mayWrite, useMe } from "@/sign_in";
import { Badge, type Tone } from "@/ui/badge";
import { Button, IconButton } from "@/ui/button";
import { SearchInput } from "@/ui/fields";
import { Menu } from "@/ui/menu";
import { Moment } from "@/ui/moment";
import { PageFrame } from "@/ui/page_frame";
import { Fact, Facts, Panel } from "@/ui/panel";
import { Question } from "@/ui/question";
import { Answered, Empty } from "@/ui/states";
import { AddTag } from "./add_tag";
import { CreateTemplate } from "./create";
import { nameOf, templatesQuery } from "./query";
import { templateWords } from "./words";

const MIB = 1 << 20;
const TONES: Record<Template["state"], Tone> = { building: "warn", ready: "good", failed: "bad" };

type Asked = { act: "tag" | "size" | "delete"; template: Template };

export default function TemplatesPage(): ReactNode {
  const say = useWords(templateWords);
  const writes = mayWrite(useMe());
  const query = useQuery(templatesQuery);
  const { data, refetch } = query;
  const [text, setText] = useState("");
  const [isNew, setIsNew] = useState(false);
  const [asked, setAsked] = useState<Asked | null>(null);
  const shown = useMemo(() => {
    const wanted = text.trim().toLowerCase();
    return (data ?? [])
      .filter((one) =>
        [nameOf(one), one.name, one.id, ...one.aliases].join("\n").toLowerCase().includes(wanted),
      )
      .toReversed();
  }, [data, text]);
  const close = (): void => setAsked(null);
  const add = writes ? (
    <Button kind="primary" icon={<Plus aria-hidden />} onClick={() => setIsNew(true)}>
      {say("new")}
    </Button>
  ) : null;
  return (
    <PageFrame title={say("title")} about={say("about")} acts={data?.length ? add : null}>
      <Answered
        query={query}
        none={
          <Empty icon={<LayoutTemplate />} title={say("none")}>
            <p>{say("noneAbout")}</p>
            {add}
          </Empty>
        }
      >
        {() => (
          <>
            <SearchInput
              className="mx-4 mt-3 sm:max-w-72"
              label={say("search")}
              value={text}
              onType={setText}
            />
            {shown.length === 0 ? (
              <Empty icon={<Search />} title={say("nothing")}>
                <p>{say("nothingAbout")}</p>
                <Button onClick={() => setText("")}>{say("clear")}</Button>
              </Empty>
            ) : (
              <ul className="grid gap-4 p-4 lg:grid-cols-2 2xl:grid-cols-3">
                {shown.map((one) => (
                  <li key={one.id}>
                    <TemplateCard template={one} ask={(act) => setAsked({ act, template: one })} />
                  </li>
                ))}
              </ul>
            )}
          </>
        )}
      </Answered>
      {isNew ? <CreateTemplate onClose={() => setIsNew(false)} /> : null}
      {asked?.act === "tag" ? <AddTag template={asked.template} onClose={close} /> : null}
      {asked?.act === "size" ? <PoolSize template={asked.template} onClose={close} /> : null}
      {asked?.act === "delete" ? (
        <Question
          title={say("deleteTitle", { name: nameOf(asked.template) })}
          yes={say("delete")}
          onClose={close}
          act={async () => {
            await bay.templates.delete(asked.template.id);
            await refetch();
          }}
        >
          <p>{say("deleteAbout")}</p>
        </Question>
      ) : null}
    </PageFrame>
  );
}

function TemplateCard({ template, ask }: { template: Template; ask(act: Asked["act"]): void }): ReactNode {
  const say = useWords(templateWords);
  const writes = mayWrite(useMe());
  const go = useNavigate();
  const name = nameOf(template);
  const use = (): void => void go(`/console/sandboxes?new=1&template=${encodeURIComponent(template.id)}`);
  const isReady = template.state === "ready";
  return (
    <Panel
      className="flex h-full flex-col"
      title={<span className="break-all">{name}</span>}
      acts={
        <>
          {template.shared ? <Badge>{say("shared")}</Badge> : null}
          <Badge tone={TONES[template.state]} dot>
            {say(template.state)}
          </Badge>
          {writes ? (
            <Menu
              label={say("actsOf", { name })}
              trigger={
                <IconButton label={say("actsOf", { name })}>
                  <EllipsisVertical aria-hidden />
                </IconButton>
              }
              items={[
                { label: say("use"), icon: <Boxes aria-hidden />, disabled: !isReady, onSelect: use },
                {
                  label: say("tag"),
                  icon: <Tag aria-hidden />,
                  disabled: !isReady,
                  onSelect: () => ask("tag"),
                },
                {
                  label: say("size"),
                  icon: <SlidersHorizontal aria-hidden />,
                  disabled: !isReady,
                  onSelect: () => ask("size"),
                },
                "line",
                {
                  label: say("delete"),
                  icon: <Trash2 aria-hidden />,
                  danger: true,
                  onSelect: () => ask("delete"),
                },
              ]}
            />
          ) : null}
        </>
      }
    >
      <div className="flex-1">
        {template.aliases.length ? (
          <p className="flex flex-wrap gap-1.5 px-4 pt-3">
            {template.aliases.map((alias) => (
              <code key={alias} className="rounded-md bg-raised px-1.5 py-0.5 text-xs">
                {alias}
              </code>
            ))}
          </p>
        ) : null}
        <Facts>
          <Fact name={say("profile")}>{template.profile}</Fact>
          <Fact name={say("sizes")}>{sizesOf(template, say)}</Fact>
          <Fact name={say("pool")}>
            {template.pool_size
              ? say("poolOf", { ready: count(template.pool_ready), size: count(template.pool_size) })
              : say("noPool")}
          </Fact>
          <Fact name={say("made")}>
            <Moment at={template.created_at} />
          </Fact>
        </Facts>
        {template.start_command ? (
          <p className="truncate px-4 pb-4 text-xs text-muted">
            {say("start")} <code>{shellLine(template.start_command)}</code>
          </p>
        ) : null}
        {(template.error?.message ?? template.pool_error) ? (
          <p className="mx-4 mb-4 rounded-lg bg-bad-soft px-3 py-2 text-sm break-words text-bad">
            {template.error?.message ?? template.pool_error}
          </p>
        ) : null}
      </div>
      {writes && isReady ? (
        <div className="border-t px-4 py-3">
          <Button icon={<Boxes aria-hidden />} onClick={use}>
            {say("useShort")}
          </Button>
        </div>
      ) : null}
    </Panel>
  );
}

function sizesOf(template: Template, say: ReturnType<typeof useWords<typeof templateWords.en>>): string {
  const found = [
    template.cpus ? say("cores", { count: template.cpus }) : "",
    template.memory_mb ? say("memory", { size: bytes(template.memory_mb * MIB) }) : "",
    template.disk_mb ? say("disk", { size: bytes(template.disk_mb * MIB) }) : "",
  ].filter(Boolean);
  return found.length ? found.join(", ") : say("asProfile");
}

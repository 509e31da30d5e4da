/** The images that sandboxes start from, and how far their pulls have come. */

import { useQuery } from "@tanstack/react-query";
import type { ContainerImage } from "bay-sandbox";
import { Boxes, Disc3, Download, EllipsisVertical, Eraser, Search, Trash2 } from "lucide-react";
import { type ReactNode, useCallback, useMemo, useState } from "react";
import { useNavigate } from "react-router";
import { bay } from "@/bay";
import { bytes } from "@/lib/format";
import { useWords } from "@/lib/words";
import { mayWrite, useMe } from "@/sign_in";
import { Badge, type Tone } from "@/ui/badge";
import { Button, IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { SearchInput } from "@/ui/fields";
import { Menu } from "@/ui/menu";
import { Moment } from "@/ui/moment";
import { PageFrame } from "@/ui/page_frame";
import { Question } from "@/ui/question";
import { Answered, Empty } from "@/ui/states";
import { tellError } from "@/ui/toasts";
import { nameOf, templatesQuery } from "../templates/query";
import { Progress } from "./progress";
import { Prune } from "./prune";
import { PullDialog, pull } from "./pull";
import { imagesQuery, shortRef } from "./query";
import { imageWords } from "./words";

const TONES: Record<ContainerImage["state"], Tone> = { pulling: "warn", ready: "good", failed: "bad" };
const COLUMNS = "md:grid md:grid-cols-[minmax(12rem,3fr)_8rem_7rem_9rem_2.5rem] md:items-center md:gap-3";

export default function ImagesPage(): ReactNode {
  const say = useWords(imageWords);
  const writes = mayWrite(useMe());
  const query = useQuery(imagesQuery);
  const { data, refetch } = query;
  const templates = useQuery({
    ...templatesQuery,
    enabled: data?.some((image) => image.source === "template") ?? false,
  });
  /** An image of a template is known by the template's name. */
  const called = useCallback(
    (image: ContainerImage): string => {
      const of = templates.data?.find(({ id }) => image.ref === `template:${id}`);
      return of ? nameOf(of) : shortRef(image.ref);
    },
    [templates.data],
  );
  const [text, setText] = useState("");
  const [asks, setAsks] = useState<"pull" | "prune" | null>(null);
  const [leaving, setLeaving] = useState<ContainerImage | null>(null);
  const shown = useMemo(() => {
    const wanted = text.trim().toLowerCase();
    return (data ?? [])
      .filter((image) => `${called(image)}\n${image.ref}\n${image.id}`.toLowerCase().includes(wanted))
      .toReversed();
  }, [data, text, called]);
  const add = writes ? (
    <Button kind="primary" icon={<Download aria-hidden />} onClick={() => setAsks("pull")}>
      {say("pull")}
    </Button>
  ) : null;
  return (
    <PageFrame
      title={say("title")}
      about={say("about")}
      acts={
        <>
          {writes && data?.length ? (
            <Button
              icon={<Eraser aria-hidden />}
              aria-label={say("prune")}
              title={say("prune")}
              onClick={() => setAsks("prune")}
            >
              <span className="hidden sm:inline">{say("prune")}</span>
            </Button>
          ) : null}
          {data?.length ? add : null}
        </>
      }
    >
      <Answered
        query={query}
        none={
          <Empty icon={<Disc3 />} title={say("none")}>
            <p>{say("noneAbout")}</p>
            {add}
          </Empty>
        }
      >
        {() => (
          <>
            <SearchInput
              className="mx-4 my-3 sm:max-w-72"
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
              <div className="border-t bg-panel">
                <div
                  aria-hidden
                  className={cx(COLUMNS, "hidden border-b bg-page px-4 py-2 text-xs font-medium text-muted")}
                >
                  <span>{say("reference")}</span>
                  <span>{say("state")}</span>
                  <span>{say("size")}</span>
                  <span>{say("used")}</span>
                </div>
                <ul>
                  {shown.map((image) => (
                    <Row key={image.id} image={image} name={called(image)} remove={setLeaving} />
                  ))}
                </ul>
              </div>
            )}
          </>
        )}
      </Answered>
      {asks === "pull" ? <PullDialog onClose={() => setAsks(null)} /> : null}
      {asks === "prune" ? <Prune onClose={() => setAsks(null)} /> : null}
      {leaving ? (
        <Question
          title={say("deleteTitle", { ref: called(leaving) })}
          yes={say(leaving.state === "pulling" ? "cancelPull" : "delete")}
          onClose={() => setLeaving(null)}
          act={async () => {
            await bay.images.delete(leaving.id);
            await refetch();
          }}
        >
          <p>{say("deleteAbout")}</p>
        </Question>
      ) : null}
    </PageFrame>
  );
}

function Row({
  image,
  name: ref,
  remove,
}: {
  image: ContainerImage;
  name: string;
  remove(image: ContainerImage): void;
}): ReactNode {
  const say = useWords(imageWords);
  const writes = mayWrite(useMe());
  const go = useNavigate();
  return (
    <li className={cx(COLUMNS, "relative border-b px-4 py-2.5 text-sm")}>
      <div className="min-w-0 pr-10 md:pr-0">
        <span className="block font-medium break-all">{ref}</span>
        <span className="block truncate text-xs text-muted">
          {[
            say(image.source),
            image.layers === null ? "" : say("layers", { count: image.layers }),
            image.platform ?? "",
            image.digest?.slice(0, 19) ?? "",
          ]
            .filter(Boolean)
            .join(" · ")}
        </span>
        {image.state === "pulling" ? <Progress image={image} /> : null}
        {image.error ? (
          <span className="mt-1 block text-xs break-words text-bad">
            {image.state === "pulling" && image.attempts
              ? `${say("failedTimes", { count: image.attempts })}: `
              : ""}
            {image.error.message}
          </span>
        ) : null}
      </div>
      <span className="mt-1.5 mr-3 inline-flex flex-wrap gap-1.5 md:m-0">
        <Badge tone={TONES[image.state]} dot>
          {say(image.state)}
        </Badge>
        {image.shared ? <Badge>{say("shared")}</Badge> : null}
      </span>
      <span className="mr-3 text-muted md:m-0">
        {image.size_bytes === null ? "" : bytes(image.size_bytes)}
      </span>
      <span className="text-muted">
        <span className="md:sr-only">{say("used")} </span>
        <Moment at={image.last_used_at} />
      </span>
      {writes ? (
        <span className="absolute top-2 right-3 md:static">
          <Menu
            label={say("actsOf", { ref })}
            trigger={
              <IconButton label={say("actsOf", { ref })}>
                <EllipsisVertical aria-hidden />
              </IconButton>
            }
            items={[
              {
                label: say("use"),
                icon: <Boxes aria-hidden />,
                disabled: image.state === "failed",
                onSelect: () => void go(`/console/sandboxes?new=1&image=${encodeURIComponent(image.ref)}`),
              },
              image.source === "registry" && {
                label: say("again"),
                icon: <Download aria-hidden />,
                disabled: image.state === "pulling",
                onSelect: () => void pull({ ref: image.ref, pull: "always" }).catch(tellError),
              },
              "line",
              {
                label: say(image.state === "pulling" ? "cancelPull" : "delete"),
                icon: <Trash2 aria-hidden />,
                danger: true,
                onSelect: () => remove(image),
              },
            ]}
          />
        </span>
      ) : null}
    </li>
  );
}

/** The audit, newest first. Older pages are read as they are scrolled to. */

import { useInfiniteQuery } from "@tanstack/react-query";
import { useVirtualizer } from "@tanstack/react-virtual";
import type { AuditEntry } from "bay-sandbox";
import { RotateCw, ScrollText, Search } from "lucide-react";
import { type ReactNode, useEffect, useMemo, useRef, useState } from "react";
import { useSearchParams } from "react-router";
import { bay } from "@/bay";
import { count } from "@/lib/format";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { Badge } from "@/ui/badge";
import { Button, IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { Moment } from "@/ui/moment";
import { PageFrame } from "@/ui/page_frame";
import { Empty, Failed, Loading } from "@/ui/states";
import { Detail } from "./detail";
import { FilterBar } from "./filter_bar";
import { filtersOf, questionOf } from "./filters";
import { toneOf } from "./tones";
import { auditWords } from "./words";

interface AuditPageAnswer {
  items: AuditEntry[];
  next_cursor: string | null;
}

const PAGE = 100;
const ROW_PX = 54;
const NEAR = 20;
const COLUMNS =
  "grid grid-cols-[4rem_1fr] gap-x-3 md:grid-cols-[4rem_minmax(12rem,3fr)_minmax(8rem,1.5fr)_minmax(8rem,1.5fr)_8rem]";

export default function AuditPage(): ReactNode {
  const say = useWords(auditWords);
  const [query, setQuery] = useSearchParams();
  const filters = useMemo(() => filtersOf(query), [query]);
  const [opened, setOpened] = useState<AuditEntry | null>(null);
  const { data, error, refetch, isFetching, hasNextPage, fetchNextPage } = useInfiniteQuery({
    queryKey: keys.nouns("audit", filters),
    initialPageParam: null as string | null,
    queryFn: ({ pageParam, signal }) =>
      bay.request<AuditPageAnswer>({
        method: "GET",
        path: "/v1/audit",
        query: { ...questionOf(filters), order: "newest", limit: PAGE, cursor: pageParam },
        safe: true,
        signal,
      }),
    getNextPageParam: (last) => last.next_cursor,
    // Others call Bay all the time: a page that is opened again is read again.
    staleTime: 0,
  });
  const found = useMemo(() => data?.pages.flatMap((page) => page.items) ?? [], [data]);
  const only = (name: string, value: string): void => {
    setOpened(null);
    setQuery({ [name]: value });
  };
  return (
    <PageFrame
      title={say("title")}
      about={say("about")}
      acts={
        <>
          {found.length ? (
            <p role="status" className="text-sm text-muted">
              {say(hasNextPage ? "shownMore" : "shown", { number: count(found.length) })}
            </p>
          ) : null}
          <IconButton label={say("refresh")} disabled={isFetching} onClick={() => void refetch()}>
            <RotateCw aria-hidden className={isFetching ? "animate-spin" : ""} />
          </IconButton>
        </>
      }
    >
      <FilterBar filters={filters} change={setQuery} />
      {error ? <Failed error={error} retry={() => void refetch()} /> : null}
      {data === undefined ? (
        error ? null : (
          <Loading />
        )
      ) : found.length ? (
        <List
          found={found}
          more={() => hasNextPage && !isFetching && void fetchNextPage()}
          open={setOpened}
        />
      ) : Object.keys(filters).length ? (
        <Empty icon={<Search />} title={say("nothing")}>
          <p>{say("nothingAbout")}</p>
          <Button onClick={() => setQuery({})}>{say("clear")}</Button>
        </Empty>
      ) : (
        <Empty icon={<ScrollText />} title={say("none")}>
          <p>{say("noneAbout")}</p>
        </Empty>
      )}
      {opened ? <Detail entry={opened} only={only} onClose={() => setOpened(null)} /> : null}
    </PageFrame>
  );
}

function List({
  found,
  more,
  open,
}: {
  found: readonly AuditEntry[];
  more(): void;
  open(entry: AuditEntry): void;
}): ReactNode {
  const say = useWords(auditWords);
  const place = useRef<HTMLElement>(null);
  const rows = useVirtualizer({
    count: found.length,
    getScrollElement: () => place.current,
    estimateSize: () => ROW_PX,
    overscan: 10,
  });
  const shown = rows.getVirtualItems();
  const last = shown.at(-1)?.index ?? 0;
  const isNear = last >= found.length - NEAR;
  // biome-ignore lint/correctness/useExhaustiveDependencies: `more` is another function each time
  useEffect(() => {
    if (isNear) more();
  }, [isNear, found.length]);
  return (
    <>
      <div
        aria-hidden
        className={cx(COLUMNS, "!hidden border-b bg-page px-4 py-2 text-xs font-medium text-muted md:!grid")}
      >
        <span>{say("status")}</span>
        <span>{say("call")}</span>
        <span>{say("who")}</span>
        <span>{say("what")}</span>
        <span>{say("time")}</span>
      </div>
      <section
        ref={place}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is scrolled by keyboard too
        tabIndex={0}
        aria-label={say("title")}
        className="h-0 min-h-[50dvh] flex-1 overflow-auto bg-panel"
      >
        <ul className="relative" style={{ height: rows.getTotalSize() }}>
          {shown.map(({ index, key, start }) => {
            const entry = found[index];
            return entry === undefined ? null : (
              <li
                key={key}
                aria-setsize={found.length}
                aria-posinset={index + 1}
                className="absolute inset-x-0 top-0 border-b"
                style={{ height: ROW_PX, transform: `translateY(${start}px)` }}
              >
                <Row entry={entry} open={open} />
              </li>
            );
          })}
        </ul>
      </section>
    </>
  );
}

function Row({ entry, open }: { entry: AuditEntry; open(entry: AuditEntry): void }): ReactNode {
  const say = useWords(auditWords);
  return (
    <button
      type="button"
      onClick={() => open(entry)}
      className={cx(
        COLUMNS,
        "size-full content-center items-center px-4 text-left text-sm outline-offset-[-2px] hover:bg-raised",
      )}
    >
      <span>
        <Badge tone={toneOf(entry.status)}>{entry.status ?? "—"}</Badge>
      </span>
      <span className="min-w-0 truncate font-mono text-[0.92em]" title={entry.path}>
        <span className="font-semibold">{entry.method}</span> {entry.path}
      </span>
      <span className="col-start-2 min-w-0 truncate text-xs text-muted md:col-start-auto md:text-sm">
        {entry.owner ?? say("nobody")}
        <span className="md:hidden">
          {" · "}
          <Moment at={entry.at} />
        </span>
        <span className="hidden truncate font-mono text-xs md:block">{entry.key_id}</span>
      </span>
      <span className="hidden min-w-0 truncate font-mono text-xs text-muted md:block">
        {entry.resource_id}
      </span>
      <span className="hidden truncate text-muted md:block">
        <Moment at={entry.at} />
      </span>
    </button>
  );
}

/** All sandboxes. Rows that are out of sight are not made, so thousands are no slower than ten. */

import { useQuery } from "@tanstack/react-query";
import { useVirtualizer } from "@tanstack/react-virtual";
import type { Sandbox } from "bay-sandbox";
import { Boxes, Pause, Play, Plus, Search, Square, Trash2, X } from "lucide-react";
import { lazy, type ReactNode, Suspense, useMemo, useRef, useState } from "react";
import { useSearchParams } from "react-router";
import { useWords } from "@/lib/words";
import { type Act, actsOf, sandboxesQuery, useActs, useLeaving } from "@/sandboxes";
import { mayWrite, useMe } from "@/sign_in";
import { Button, IconButton } from "@/ui/button";
import { SearchInput, Select } from "@/ui/fields";
import type { Shown } from "@/ui/state_badge";
import { Answered, Empty } from "@/ui/states";
import { matches, ordered } from "./filter";
import { Row } from "./row";
import { listWords } from "./words";

const CreateDialog = lazy(() => import("./create"));

const STATES: Shown[] = ["running", "warm", "hibernated", "cold", "warming", "failed", "expired"];
const ROW_PX = 56;
const OVERSCAN = 12;

export function ListPage(): ReactNode {
  const say = useWords(listWords);
  const me = useMe();
  const [address, setAddress] = useSearchParams();
  const query = useQuery(sandboxesQuery);
  const { data } = query;
  const text = address.get("q") ?? "";
  const state = STATES.find((one) => one === address.get("state")) ?? "";
  const shown = useMemo(
    () => ordered(data ?? []).filter((box) => matches(box, { text, state })),
    [data, text, state],
  );
  const change = (name: string, value: string): void =>
    setAddress(
      (before) => {
        const next = new URLSearchParams(before);
        if (value) next.set(name, value);
        else next.delete(name);
        return next;
      },
      { replace: true },
    );
  const closeNew = (): void =>
    setAddress(
      (before) => {
        const next = new URLSearchParams(before);
        for (const name of ["new", "image", "template", "checkpoint"]) next.delete(name);
        return next;
      },
      { replace: true },
    );
  const isNew = address.get("new") === "1" && mayWrite(me);

  return (
    <>
      <header className="flex flex-wrap items-center gap-2 border-b bg-panel px-4 py-3">
        <h1 className="mr-2 text-lg font-semibold">{say("title")}</h1>
        <SearchInput
          className="order-last w-full sm:order-none sm:w-72"
          label={say("search")}
          value={text}
          onType={(typed) => change("q", typed)}
        />
        <Select
          aria-label={say("state")}
          value={state}
          onChange={(event) => change("state", event.target.value)}
          className="!w-auto"
        >
          <option value="">{say("anyState")}</option>
          {STATES.map((one) => (
            <option key={one} value={one}>
              {say(one)}
            </option>
          ))}
        </Select>
        {data?.length ? (
          <p className="hidden text-sm text-muted sm:block" role="status">
            {say("shown", { shown: shown.length, all: data.length })}
          </p>
        ) : null}
        {mayWrite(me) ? (
          <Button
            kind="primary"
            icon={<Plus aria-hidden />}
            className="ml-auto"
            onClick={() => change("new", "1")}
          >
            {say("new")}
          </Button>
        ) : null}
      </header>
      <Answered
        query={query}
        none={
          <Empty icon={<Boxes />} title={say("emptyTitle")}>
            <p>{mayWrite(me) ? say("empty") : say("emptyRead")}</p>
            {mayWrite(me) ? (
              <Button kind="primary" icon={<Plus aria-hidden />} onClick={() => change("new", "1")}>
                {say("new")}
              </Button>
            ) : null}
            <pre className="rounded-lg bg-raised px-3 py-2 text-left">bay create demo</pre>
          </Empty>
        }
      >
        {() =>
          shown.length === 0 ? (
            <Empty icon={<Search />} title={say("nothingTitle")}>
              <p>{say("nothing")}</p>
              <Button onClick={() => setAddress({})}>{say("showAll")}</Button>
            </Empty>
          ) : (
            <Table boxes={shown} onLabel={(label) => change("q", label)} />
          )
        }
      </Answered>
      {isNew ? (
        <Suspense fallback={null}>
          <CreateDialog onClose={closeNew} />
        </Suspense>
      ) : null}
    </>
  );
}

function Table({ boxes, onLabel }: { boxes: Sandbox[]; onLabel(label: string): void }): ReactNode {
  const say = useWords(listWords);
  const me = useMe();
  const acts = useActs();
  const leaving = useLeaving();
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const place = useRef<HTMLDivElement>(null);
  const rows = useVirtualizer({
    count: boxes.length,
    getScrollElement: () => place.current,
    estimateSize: () => ROW_PX,
    getItemKey: (at) => boxes[at]?.id ?? at,
    overscan: OVERSCAN,
  });
  const picked = boxes.filter((box) => chosen.has(box.id) && !leaving.has(box.id));
  const toggle = (id: string): void =>
    setChosen((before) => {
      const next = new Set(before);
      if (!next.delete(id)) next.add(id);
      return next;
    });
  const doAll = (act: Act): void => {
    void acts.do(
      act,
      picked.filter((box) => actsOf(box)[act]),
    );
  };
  return (
    <>
      {picked.length ? (
        <div className="flex flex-wrap items-center gap-2 border-b bg-accent-soft px-4 py-2 text-sm">
          <span className="font-medium">{say("chosen", { number: picked.length })}</span>
          <Button icon={<Play aria-hidden />} onClick={() => doAll("start")}>
            {say("start")}
          </Button>
          <Button icon={<Pause aria-hidden />} onClick={() => doAll("pause")}>
            {say("pause")}
          </Button>
          <Button icon={<Square aria-hidden />} onClick={() => doAll("stop")}>
            {say("stop")}
          </Button>
          <Button
            icon={<Trash2 aria-hidden />}
            onClick={() => {
              acts.remove(picked);
              setChosen(new Set());
            }}
          >
            {say("delete")}
          </Button>
          <IconButton label={say("clear")} onClick={() => setChosen(new Set())}>
            <X aria-hidden />
          </IconButton>
        </div>
      ) : null}
      <section
        ref={place}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is scrolled by keyboard too
        tabIndex={0}
        className="min-h-0 flex-1 overflow-auto"
        aria-label={say("title")}
      >
        <table className="block text-sm" aria-rowcount={boxes.length + 1}>
          <thead className="sticky top-0 z-10 hidden bg-page md:block">
            <tr className="grid grid-cols-(--columns) items-center gap-3 border-b px-4 text-left text-xs text-muted [--columns:1.5rem_minmax(10rem,2fr)_7rem_minmax(6rem,1fr)_minmax(8rem,2fr)_7.5rem_6.5rem_2.5rem] [&>th]:py-2 [&>th]:font-medium">
              <th>
                {mayWrite(me) ? (
                  <input
                    type="checkbox"
                    aria-label={say("chooseAll")}
                    className="size-4 align-middle accent-accent"
                    checked={picked.length === boxes.length}
                    onChange={(event) =>
                      setChosen(new Set(event.target.checked ? boxes.map((box) => box.id) : []))
                    }
                  />
                ) : (
                  <span className="sr-only">{say("choose", { name: "" })}</span>
                )}
              </th>
              <th>{say("name")}</th>
              <th>{say("state")}</th>
              <th>{say("image")}</th>
              <th>{say("labels")}</th>
              <th>{say("made")}</th>
              <th>{say("ends")}</th>
              <th>
                <span className="sr-only">{say("actsOf", { name: "" })}</span>
              </th>
            </tr>
          </thead>
          <tbody className="relative block" style={{ height: rows.getTotalSize() }}>
            {rows.getVirtualItems().map(({ index, key, start }) => {
              const box = boxes[index];
              return box === undefined ? null : (
                <Row
                  key={key}
                  box={box}
                  at={index}
                  top={start}
                  height={ROW_PX}
                  leaving={leaving.has(box.id)}
                  chosen={mayWrite(me) ? chosen.has(box.id) : null}
                  onChoose={toggle}
                  onLabel={onLabel}
                  acts={acts}
                />
              );
            })}
          </tbody>
        </table>
      </section>
    </>
  );
}

/**
 * The terminals of a sandbox. Which shells there are is Bay's to say: they are its execs with a terminal, so another
 * browser, and this one after a reload, show the same ones, each with its screen.
 */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { Exec, Sandbox } from "bay-sandbox";
import {
  AArrowDown,
  AArrowUp,
  Accessibility,
  Copy,
  Play,
  Plus,
  Settings2,
  SquareTerminal,
  X,
} from "lucide-react";
import { type ReactNode, useEffect, useMemo, useRef, useState } from "react";
import { useSearchParams } from "react-router";
import { bay } from "@/bay";
import { useWords } from "@/lib/words";
import { put } from "@/live";
import { mayWrite, useMe } from "@/sign_in";
import { Button, IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { Dialog } from "@/ui/dialog";
import { Menu, type MenuItem } from "@/ui/menu";
import { Empty, Failed, Loading } from "@/ui/states";
import { tellError } from "@/ui/toasts";
import { execsQuery } from "../execs/query";
import { useLooks } from "./looks";
import { Pane } from "./pane";
import type { Link } from "./session";
import { merge, neighbour, programOf } from "./shells";
import { terminalWords } from "./words";

const USUAL_SIZE = { rows: 24, cols: 80 };
const IN_ADDRESS = "exec";

export default function TerminalTab({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(terminalWords);
  if (!mayWrite(useMe()))
    return (
      <Empty icon={<SquareTerminal />} title={say("shells")}>
        <p>{say("readOnly")}</p>
      </Empty>
    );
  return <Shells key={box.id} box={box} />;
}

function Shells({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(terminalWords);
  const cache = useQueryClient();
  const choice = useLooks();
  const query = execsQuery(box.id);
  const list = useQuery({ ...query, refetchOnMount: "always", refetchOnWindowFocus: "always" });
  const [address, setAddress] = useSearchParams();
  const [before, setBefore] = useState<readonly Exec[]>([]);
  const [left, setLeft] = useState<ReadonlySet<string>>(new Set());
  const [begun, setBegun] = useState<ReadonlySet<string>>(new Set());
  const [titles, setTitles] = useState<Record<string, string>>({});
  const [links, setLinks] = useState<Record<string, Link>>({});
  const [closing, setClosing] = useState<Exec | null>(null);
  const [opening, setOpening] = useState(false);
  const size = useRef(USUAL_SIZE);
  const strip = useRef<HTMLElement>(null);
  const copier = useRef<(() => void) | null>(null);

  const shells = useMemo(() => merge(before, list.data ?? [], left), [before, list.data, left]);
  // A shell that ends stays until it is closed, though the list of Bay forgets it.
  useEffect(() => setBefore(shells), [shells]);
  const wanted = address.get(IN_ADDRESS);
  const running = shells.findLast((exec) => exec.state === "running");
  const active = shells.find((exec) => exec.id === wanted) ?? running ?? shells.at(-1) ?? null;
  const isAwake = box.compute === "running";

  // Looking wakes nothing: one connects to a shell when it is first looked at, while the sandbox runs.
  const activeId = active?.id ?? null;
  useEffect(() => {
    if (activeId === null || !isAwake) return;
    setBegun((ids) => (ids.has(activeId) ? ids : new Set([...ids, activeId])));
  }, [activeId, isAwake]);

  const show = (id: string | null): void => {
    setAddress(
      (now) => {
        if (id === null) now.delete(IN_ADDRESS);
        else now.set(IN_ADDRESS, id);
        return now;
      },
      { replace: true },
    );
  };
  const open = async (always: boolean): Promise<void> => {
    setOpening(true);
    try {
      const handle = await bay.sandboxes.get(box.id);
      if (box.compute === "warm") put(cache, await handle.resume());
      else if (box.compute !== "running") put(cache, await handle.start());
      if (!always) {
        const { data = [] } = await list.refetch();
        if (data.some(({ tty, state }) => tty && state === "running")) return;
      }
      const line = await handle.terminal(size.current);
      line.close();
      cache.setQueryData(query.queryKey, (now) => [
        line.info,
        ...(now ?? []).filter(({ id }) => id !== line.info.id),
      ]);
      show(line.info.id);
    } catch (error) {
      tellError(error);
    } finally {
      setOpening(false);
    }
  };
  const forget = (id: string): void => {
    if (active?.id === id) show(neighbour(shells, id));
    setLeft((ids) => new Set([...ids, id]));
    setBegun((ids) => new Set([...ids].filter((one) => one !== id)));
  };
  const end = async (id: string): Promise<void> => {
    forget(id);
    try {
      await (await bay.sandboxes.get(box.id)).execs.end(id);
    } catch (error) {
      tellError(error);
    }
    await list.refetch();
  };
  const isOver = ({ id, state }: Exec): boolean => {
    const kind = links[id]?.kind;
    return kind === "ended" || kind === "gone" || (kind === undefined && state !== "running");
  };
  const close = (exec: Exec): void => {
    if (isOver(exec)) forget(exec.id);
    else setClosing(exec);
  };
  const nameOf = (exec: Exec): string => {
    const number = shells.filter((one) => !programOf(one)).indexOf(exec) + 1;
    return titles[exec.id] || programOf(exec) || say("shell", { number: number || 1 });
  };

  if (list.data === undefined)
    return list.error ? <Failed error={list.error} retry={() => void list.refetch()} /> : <Loading />;

  const hidden = list.data.filter(({ id, tty, state }) => tty && state === "running" && left.has(id));
  const items: (MenuItem | "line" | false)[] = [
    { label: say("larger"), icon: <AArrowUp aria-hidden />, onSelect: () => choice.resize(1) },
    { label: say("smaller"), icon: <AArrowDown aria-hidden />, onSelect: () => choice.resize(-1) },
    {
      label: say("screenReader"),
      icon: <Accessibility aria-hidden />,
      checked: choice.looks.screenReader,
      onSelect: choice.toggleScreenReader,
    },
    { label: say("copySelected"), icon: <Copy aria-hidden />, onSelect: () => copier.current?.() },
    hidden.length > 0 && "line",
    ...hidden.map((exec) => ({
      label: say("back", { name: `${nameOf(exec)} · ${exec.id.slice(-6)}` }),
      icon: <SquareTerminal aria-hidden />,
      onSelect: () => {
        setLeft((ids) => new Set([...ids].filter((id) => id !== exec.id)));
        show(exec.id);
      },
    })),
  ];
  const isConnected = active !== null && begun.has(active.id);
  return (
    <div className="flex min-h-0 flex-1 flex-col">
      <p className="sr-only">{say("hint")}</p>
      <div className="flex items-center gap-1 border-b bg-panel pr-2">
        <nav
          ref={strip}
          aria-label={say("shells")}
          className="flex min-w-0 flex-1 items-center gap-1 overflow-x-auto py-1 pl-2"
        >
          {shells.map((exec) => (
            <ShellTab
              key={exec.id}
              name={nameOf(exec)}
              tone={isOver(exec) ? "bg-idle" : links[exec.id]?.kind === "broken" ? "bg-warn" : "bg-good"}
              active={exec.id === active?.id}
              show={() => show(exec.id)}
              move={(by) => show(shells[shells.indexOf(exec) + by]?.id ?? exec.id)}
              close={() => close(exec)}
            />
          ))}
        </nav>
        <Button
          icon={<Plus aria-hidden />}
          kind="quiet"
          busy={opening}
          aria-label={say("openAnother")}
          onClick={() => void open(true)}
        >
          <span className="max-sm:sr-only">{say("openAnother")}</span>
        </Button>
        <Menu
          label={say("more")}
          trigger={
            <IconButton label={say("more")}>
              <Settings2 aria-hidden />
            </IconButton>
          }
          items={items}
        />
      </div>
      {isConnected ? null : <Start box={box} busy={opening} open={() => void open(false)} />}
      {shells
        .filter((exec) => begun.has(exec.id))
        .map((exec) => (
          <Pane
            key={exec.id}
            box={box}
            exec={exec}
            shown={exec.id === active?.id}
            looks={choice.looks}
            label={nameOf(exec)}
            onTitle={(title) => setTitles((all) => ({ ...all, [exec.id]: title }))}
            onLink={(link) => setLinks((all) => ({ ...all, [exec.id]: link }))}
            onSize={(now) => {
              size.current = now;
            }}
            onLeave={() => strip.current?.querySelector<HTMLElement>("[aria-current=true]")?.focus()}
            openAnother={() => void open(true)}
            close={() => forget(exec.id)}
            copier={copier}
          />
        ))}
      <Dialog
        open={closing !== null}
        onOpenChange={() => setClosing(null)}
        title={closing ? say("closeTitle", { name: nameOf(closing) }) : ""}
        about={say("closeAbout")}
      >
        <div className="flex flex-wrap justify-end gap-2">
          <Button
            onClick={() => {
              if (closing) forget(closing.id);
              setClosing(null);
            }}
          >
            {say("leave")}
          </Button>
          <Button
            kind="danger"
            onClick={() => {
              if (closing) void end(closing.id);
              setClosing(null);
            }}
          >
            {say("end")}
          </Button>
        </div>
      </Dialog>
    </div>
  );
}

/** In place of a terminal: how there will be one. */
function Start({ box, busy, open }: { box: Sandbox; busy: boolean; open(): void }): ReactNode {
  const say = useWords(terminalWords);
  const act = (label: string, icon: ReactNode): ReactNode => (
    <Button kind="primary" icon={icon} busy={busy} onClick={open}>
      {label}
    </Button>
  );
  if (box.compute === "warming") return <Loading label={say("starting")} />;
  if (box.compute === "running")
    return (
      <Empty icon={<SquareTerminal />} title={say("none")}>
        <p>{say("noneAbout")}</p>
        {act(say("open"), <Plus aria-hidden />)}
      </Empty>
    );
  const isWarm = box.compute === "warm";
  return (
    <Empty icon={<SquareTerminal />} title={say(isWarm ? "frozen" : "cold")}>
      <p>{say(isWarm ? "frozenAbout" : "coldAbout")}</p>
      {act(say(isWarm ? "resume" : "start"), <Play aria-hidden />)}
    </Empty>
  );
}

function ShellTab({
  name,
  tone,
  active,
  show,
  move,
  close,
}: {
  name: string;
  tone: string;
  active: boolean;
  show(): void;
  move(by: number): void;
  close(): void;
}): ReactNode {
  const say = useWords(terminalWords);
  return (
    <span
      className={cx(
        "flex max-w-64 shrink-0 items-center rounded-lg pl-2.5 text-sm",
        active ? "bg-raised font-medium text-ink" : "text-muted hover:bg-raised",
      )}
    >
      <button
        type="button"
        aria-current={active}
        tabIndex={active ? 0 : -1}
        title={name}
        onClick={show}
        onKeyDown={(event) => {
          if (event.key === "ArrowRight") move(1);
          else if (event.key === "ArrowLeft") move(-1);
          else if (event.key === "Delete") close();
        }}
        className="flex min-h-9 min-w-0 items-center gap-2"
      >
        <span aria-hidden className={cx("size-2 shrink-0 rounded-full", tone)} />
        <span className="truncate">{name}</span>
      </button>
      <IconButton label={say("close", { name })} className="size-8 [&_svg]:size-3.5" onClick={close}>
        <X aria-hidden />
      </IconButton>
    </span>
  );
}

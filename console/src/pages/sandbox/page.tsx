/** One sandbox: its state and acts on top, its parts as tabs below. */

import { useQuery } from "@tanstack/react-query";
import { NotFound, type Sandbox } from "bay-sandbox";
import { ArrowLeft, Box, GitFork, Moon, Pause, Play, Square, TimerOff, Trash2 } from "lucide-react";
import { lazy, type ReactNode, Suspense, useState } from "react";
import { Link, NavLink, useNavigate, useParams } from "react-router";
import { useWords } from "@/lib/words";
import { pageWords } from "@/pages/words";
import { useSavesMemory } from "@/profiles";
import { type Act, actsOf, called, sandboxQuery, startWord, useActs, useLeaving } from "@/sandboxes";
import { mayWrite, useMe } from "@/sign_in";
import { Boundary } from "@/ui/boundary";
import { Button, IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { StateBadge, shownState } from "@/ui/state_badge";
import { Empty, Failed, Loading } from "@/ui/states";
import { tellError } from "@/ui/toasts";
import { listWords } from "../list/words";
import { NoPage } from "../no_page";
import { TABS } from "./tabs";
import { sandboxWords } from "./words";

const ForkDialog = lazy(() => import("./checkpoints/fork"));

/** The tabs that have something to show of a sandbox past its time: all others need what runs no more. */
const OF_EXPIRED = ["overview", "events"];

export function SandboxPage(): ReactNode {
  const { ref = "", tab } = useParams();
  const found = useQuery(sandboxQuery(ref));
  // Events name sandboxes by their ids: the row behind a name is followed by its id.
  const id = found.data?.id ?? ref;
  const live = useQuery({ ...sandboxQuery(id), enabled: id !== ref, initialData: found.data ?? undefined });
  const box = id === ref ? found.data : live.data;
  if (found.error instanceof NotFound) return <Missing name={ref} />;
  if (box === null) return <Gone name={ref} />;
  if (box === undefined)
    return found.error ? <Failed error={found.error} retry={() => void found.refetch()} /> : <Loading />;
  return <Whole box={box} path={tab ?? "overview"} refName={ref} />;
}

function Whole({ box, path, refName }: { box: Sandbox; path: string; refName: string }): ReactNode {
  const say = useWords(sandboxWords);
  const entry = TABS.find((one) => one.path === path);
  const shown = (): ReactNode => {
    if (entry === undefined) return <NoPage />;
    if (box.status === "expired" && !OF_EXPIRED.includes(path)) return <Expired name={called(box)} />;
    return <entry.Tab box={box} />;
  };
  return (
    <>
      <header className="border-b bg-panel px-4 pt-3">
        <div className="flex flex-wrap items-center gap-x-3 gap-y-2">
          <Link
            to="/console/sandboxes"
            aria-label={say("back")}
            title={say("back")}
            className="text-muted hover:text-ink"
          >
            <ArrowLeft aria-hidden className="size-5" />
          </Link>
          <h1 className="min-w-0 truncate text-lg font-semibold">{called(box)}</h1>
          <State box={box} />
          <Buttons box={box} />
        </div>
        <nav aria-label={say("tabs")} className="-mb-px flex gap-1 overflow-x-auto pt-2">
          {TABS.map((one) => (
            <NavLink
              key={one.path}
              to={`/console/sandboxes/${refName}/${one.path}`}
              aria-current={one.path === path ? "page" : undefined}
              className={cx(
                "flex min-h-10 shrink-0 items-center gap-1.5 border-b-2 px-2.5 text-sm [&_svg]:size-4",
                one.path === path
                  ? "border-accent font-medium text-accent"
                  : "border-transparent text-muted hover:text-ink",
              )}
            >
              {one.icon}
              {say(one.name)}
            </NavLink>
          ))}
        </nav>
      </header>
      <Boundary key={path}>
        <Suspense fallback={<Loading />}>{shown()}</Suspense>
      </Boundary>
    </>
  );
}

function State({ box }: { box: Sandbox }): ReactNode {
  return <StateBadge state={useLeaving().has(box.id) ? "leaving" : shownState(box)} />;
}

function Buttons({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(listWords);
  const sayHere = useWords(sandboxWords);
  const sayPages = useWords(pageWords);
  const acts = useActs();
  const me = useMe();
  const go = useNavigate();
  const leaving = useLeaving().has(box.id);
  const [busy, setBusy] = useState<string | null>(null);
  const [isForking, setForking] = useState(false);
  const may = actsOf(box, useSavesMemory(box));
  if (!mayWrite(me)) return null;
  const run = async (name: string, work: () => Promise<unknown>): Promise<void> => {
    setBusy(name);
    try {
      await work();
    } catch (error) {
      tellError(error);
    } finally {
      setBusy(null);
    }
  };
  const act =
    (name: Act): (() => void) =>
    () =>
      void run(name, () => acts.do(name, [box]));
  const remove = (): void => {
    acts.remove([box]);
    void go("/console/sandboxes");
  };
  return (
    <fieldset disabled={leaving} className="ml-auto flex items-center gap-1.5">
      <legend className="sr-only">{sayPages("acts")}</legend>
      {may.start ? (
        <Button icon={<Play aria-hidden />} kind="primary" busy={busy === "start"} onClick={act("start")}>
          {say(startWord(box))}
        </Button>
      ) : null}
      {may.pause ? (
        <Button icon={<Pause aria-hidden />} busy={busy === "pause"} onClick={act("pause")}>
          {say("pause")}
        </Button>
      ) : null}
      {may.hibernate ? (
        <Button icon={<Moon aria-hidden />} busy={busy === "hibernate"} onClick={act("hibernate")}>
          <span className="max-sm:sr-only">{say("hibernate")}</span>
        </Button>
      ) : null}
      {may.stop ? (
        <Button icon={<Square aria-hidden />} busy={busy === "stop"} onClick={act("stop")}>
          {say("stop")}
        </Button>
      ) : null}
      {box.status === "expired" ? null : (
        <Button icon={<GitFork aria-hidden />} title={sayHere("forkAbout")} onClick={() => setForking(true)}>
          <span className="max-sm:sr-only">{sayHere("fork")}</span>
        </Button>
      )}
      <IconButton label={say("delete")} onClick={remove}>
        <Trash2 aria-hidden />
      </IconButton>
      {isForking ? (
        <Suspense>
          <ForkDialog box={box} one={null} onClose={() => setForking(false)} />
        </Suspense>
      ) : null}
    </fieldset>
  );
}

function Missing({ name }: { name: string }): ReactNode {
  const say = useWords(sandboxWords);
  return (
    <Empty icon={<Box />} title={say("missing", { name })}>
      <p>{say("missingAbout")}</p>
      <Back />
    </Empty>
  );
}

function Expired({ name }: { name: string }): ReactNode {
  const say = useWords(sandboxWords);
  return (
    <Empty icon={<TimerOff />} title={say("hasExpired", { name })}>
      <p>{say("hasExpiredAbout")}</p>
      <Back />
    </Empty>
  );
}

function Gone({ name }: { name: string }): ReactNode {
  const say = useWords(sandboxWords);
  return (
    <Empty icon={<Trash2 />} title={say("gone", { name })}>
      <p>{say("goneAbout")}</p>
      <Back />
    </Empty>
  );
}

function Back(): ReactNode {
  const say = useWords(sandboxWords);
  return (
    <Link className="text-accent underline" to="/console/sandboxes">
      {say("back")}
    </Link>
  );
}

/**
 * Keeps all that is shown in step with Bay: one stream of events, and no polling.
 *
 * An event says which sandbox changed, and that sandbox is read again: what is shown is always an answer of Bay,
 * never something made up here. After a break the stream goes on behind the last event that was seen.
 */

import { type QueryClient, useQueryClient } from "@tanstack/react-query";
import { type Event, NotFound, OutputGone, type Sandbox, Unauthorized } from "bay-sandbox";
import { createContext, type ReactNode, useContext, useEffect, useState } from "react";
import { bay, stream } from "./bay";
import { onWake } from "./lib/wake";
import { useSignIn } from "./sign_in";
import { Loading } from "./ui/states";

/** `again`: it stands again after a break; for a while. */
export type LiveState = "connecting" | "live" | "again" | "broken";

const LIST = ["sandboxes"] as const;
const SETTLE_MS = 30;
const MOST_AT_ONCE = 6;
const WHOLE_LIST = 64;
/** More changes than this at once, and the list is read anew. */
const LONGEST_PAUSE_MS = 10_000;
/** Events behind the last that was seen are kept no more: anything may have changed. */
const GAP = "events.gap";
const KEPT_EVENTS = 500;
/** So long pages wait for the stream. */
const PATIENCE_MS = 2_000;
/** So long they say that it stands again. */
const NOTE_MS = 5_000;

export const keys = {
  list: LIST,
  sandbox: (id: string) => ["sandbox", id] as const,
  /** Whatever is shown of one sandbox beside its row: it is asked for again when an event of that kind comes. */
  of: (id: string, noun: string, ...rest: unknown[]) => ["sandbox", id, noun, ...rest] as const,
  nouns: (noun: string, ...rest: unknown[]) => [noun, ...rest] as const,
};

/** Which nouns of a sandbox an event may have changed, by the first part of its type and by the whole of it. */
const NOUNS: Record<string, readonly string[]> = {
  network: ["network"],
  port: ["ports"],
  service: ["services"],
  "sandbox.checkpointed": ["checkpoints"],
  "sandbox.checkpoint_deleted": ["checkpoints"],
  "sandbox.restored": ["checkpoints", "files"],
  "sandbox.ready": ["ports", "services", "execs", "kernels", "network"],
  "sandbox.stopped": ["ports", "services", "execs", "kernels", "network"],
  "sandbox.exited": ["ports", "services", "execs", "kernels", "network"],
  "sandbox.unreachable": ["ports", "services", "execs", "kernels", "network"],
};

/** Reads sandboxes again that changed: many changes of one at once are one call. */
class Changes {
  private readonly waiting = new Set<string>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private reading = 0;

  constructor(private readonly cache: QueryClient) {}

  take(event: Event): void {
    const id = event.sandbox_id;
    const kind = event.type.split(".")[0] ?? "";
    if (event.type === GAP) {
      void this.cache.invalidateQueries();
      return;
    }
    if (id === null) {
      void this.cache.invalidateQueries({ queryKey: [`${kind}s`] });
      return;
    }
    for (const noun of [...(NOUNS[event.type] ?? NOUNS[kind] ?? []), "events"]) {
      void this.cache.invalidateQueries({ queryKey: keys.of(id, noun) });
    }
    if (event.type === "sandbox.deleted") {
      this.gone(id);
      return;
    }
    this.waiting.add(id);
    this.timer ??= setTimeout(() => this.read(), SETTLE_MS);
  }

  stop(): void {
    clearTimeout(this.timer);
    this.waiting.clear();
  }

  private read(): void {
    this.timer = undefined;
    if (this.waiting.size > WHOLE_LIST) {
      this.waiting.clear();
      void this.cache.invalidateQueries({ queryKey: LIST });
      void this.cache.invalidateQueries({ queryKey: ["sandbox"] });
      return;
    }
    for (const id of this.waiting) {
      if (this.reading >= MOST_AT_ONCE) return;
      this.waiting.delete(id);
      this.reading += 1;
      void this.one(id).finally(() => {
        this.reading -= 1;
        if (this.waiting.size) this.read();
      });
    }
  }

  private async one(id: string): Promise<void> {
    try {
      put(this.cache, (await bay.sandboxes.get(id)).info);
    } catch (error) {
      if (error instanceof NotFound) this.gone(id);
      else void this.cache.invalidateQueries({ queryKey: keys.sandbox(id) });
    }
  }

  private gone(id: string): void {
    this.waiting.delete(id);
    this.cache.setQueryData<Sandbox[]>(LIST, (list) => list?.filter((one) => one.id !== id));
    this.cache.setQueryData(keys.sandbox(id), null);
  }
}

/** Show that answer wherever its sandbox is shown. */
export function put(cache: QueryClient, sandbox: Sandbox): void {
  cache.setQueryData(keys.sandbox(sandbox.id), sandbox);
  cache.setQueryData<Sandbox[]>(LIST, (list) => {
    if (list === undefined) return undefined;
    const at = list.findIndex((one) => one.id === sandbox.id);
    return at < 0 ? [...list, sandbox] : list.with(at, sandbox);
  });
}

interface Live {
  state: LiveState;
  /** Whether pages may ask for what they show. */
  begun: boolean;
  /** The last events since the page was opened, oldest first. */
  recent: readonly Event[];
}

const LiveContext = createContext<Live>({ state: "connecting", begun: false, recent: [] });

export function LiveProvider({ children }: { children: ReactNode }): ReactNode {
  const cache = useQueryClient();
  const { lost } = useSignIn();
  const [live, setLive] = useState<Live>({ state: "connecting", begun: false, recent: [] });

  useEffect(() => {
    const stop = new AbortController();
    const changes = new Changes(cache);
    void follow(cache, changes, lost, (change) => setLive(change), stop.signal);
    return () => {
      stop.abort();
      changes.stop();
    };
  }, [cache, lost]);
  return <LiveContext value={live}>{live.begun ? children : <Loading />}</LiveContext>;
}

export function useLive(): Live {
  return useContext(LiveContext);
}

async function follow(
  cache: QueryClient,
  changes: Changes,
  lost: () => void,
  show: (change: (now: Live) => Live) => void,
  signal: AbortSignal,
): Promise<void> {
  let last: string | undefined;
  let failures = 0;
  const say = (state: LiveState): void =>
    show((now) => (now.state === state ? now : { ...now, state, begun: true }));
  let isGap = false;
  // Nothing is asked for before the stream stands: a change in between would never be shown. But a proxy may hold the
  // stream back for long, and then all is asked for again once it comes.
  const late = setTimeout(() => {
    isGap = true;
    show((now) => ({ ...now, begun: true }));
  }, PATIENCE_MS);
  let noted: ReturnType<typeof setTimeout> | undefined;
  let connection = new AbortController();
  const deaf = onWake(() => connection.abort());
  signal.addEventListener("abort", () => {
    clearTimeout(late);
    clearTimeout(noted);
    deaf();
  });
  const onOpen = (): void => {
    clearTimeout(late);
    clearTimeout(noted);
    say(failures ? "again" : "live");
    if (failures) noted = setTimeout(() => say("live"), NOTE_MS);
    failures = 0;
    if (isGap) void cache.invalidateQueries(); // changes may have been missed
    isGap = false;
  };
  while (!signal.aborted) {
    connection = new AbortController();
    try {
      for await (const event of stream.events({
        ...(last === undefined ? {} : { since: last }),
        onOpen,
        signal: AbortSignal.any([signal, connection.signal]),
      })) {
        last = event.id;
        changes.take(event);
        show((now) => ({ ...now, recent: [...now.recent, event].slice(-KEPT_EVENTS) }));
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Unauthorized) return lost();
      if (error instanceof OutputGone) last = undefined; // so long ago that its event is kept no more
    }
    isGap ||= last === undefined;
    if (connection.signal.aborted && failures === 0) {
      say("connecting"); // whether it is broken is seen now
      continue;
    }
    failures += 1;
    say("broken");
    await pause(Math.min(LONGEST_PAUSE_MS, 250 * 2 ** failures), signal);
  }
}

/** Wait, but no longer once the network is back or the page is looked at again. */
function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      window.removeEventListener("online", end);
      document.removeEventListener("visibilitychange", end);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    window.addEventListener("online", end);
    document.addEventListener("visibilitychange", end);
    signal.addEventListener("abort", end);
  });
}

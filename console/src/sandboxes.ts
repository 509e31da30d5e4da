/** Sandboxes as the pages ask for them, and what can be done with one. */

import { queryOptions, useQueryClient } from "@tanstack/react-query";
import type { Sandbox } from "bay-sandbox";
import { useMemo, useSyncExternalStore } from "react";
import { toast } from "sonner";
import { bay, PROOF } from "./bay";
import { sayer } from "./lib/words";
import { keys, put } from "./live";
import { listWords } from "./pages/list/words";
import { tellError } from "./ui/toasts";
import { shared } from "./words";

const PAGE = 200;
/** For so long a delete can be taken back; then it is sent. */
export const UNDO_MS = 7_000;

/** All of the caller's sandboxes, kept right by the stream of events. */
export const sandboxesQuery = queryOptions({
  queryKey: keys.list,
  queryFn: async ({ signal }): Promise<Sandbox[]> => {
    const found: Sandbox[] = [];
    for await (const box of bay.sandboxes.list({ limit: PAGE, signal })) found.push(box.info);
    return found;
  },
});

/** One sandbox by its id or name; null once it is deleted. */
export function sandboxQuery(ref: string) {
  return queryOptions({
    queryKey: keys.sandbox(ref),
    queryFn: async ({ signal }): Promise<Sandbox | null> => (await bay.sandboxes.get(ref, { signal })).info,
  });
}

/** The name, else the id. */
export function called(box: Sandbox): string {
  return box.name ?? box.id;
}

/** Deletes that can still be taken back. */
class Leaving {
  private readonly timers = new Map<string, ReturnType<typeof setTimeout>>();
  private readonly listeners = new Set<() => void>();
  private shown: ReadonlySet<string> = new Set();

  constructor() {
    // A page that is left has no later: what was to be deleted is deleted now.
    window.addEventListener("pagehide", () => {
      for (const id of this.timers.keys()) {
        void fetch(`/v1/sandboxes/${id}`, { method: "DELETE", headers: PROOF, keepalive: true });
      }
      this.forget([...this.timers.keys()]);
    });
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly ids = (): ReadonlySet<string> => this.shown;

  begin(ids: readonly string[], send: (id: string) => Promise<void>): void {
    for (const id of ids) {
      if (this.timers.has(id)) continue;
      const timer = setTimeout(() => void send(id).finally(() => this.forget([id])), UNDO_MS);
      this.timers.set(id, timer);
    }
    this.changed();
  }

  forget(ids: readonly string[]): void {
    for (const id of ids) {
      clearTimeout(this.timers.get(id));
      this.timers.delete(id);
    }
    this.changed();
  }

  private changed(): void {
    this.shown = new Set(this.timers.keys());
    for (const listener of this.listeners) listener();
  }
}

const leaving = new Leaving();

/** The ids of sandboxes that are deleted in a moment, unless that is taken back. */
export function useLeaving(): ReadonlySet<string> {
  return useSyncExternalStore(leaving.subscribe, leaving.ids);
}

export type Act = "start" | "pause" | "hibernate" | "stop";

export interface Acts {
  do(act: Act, boxes: readonly Sandbox[]): Promise<void>;
  remove(boxes: readonly Sandbox[]): void;
}

/** What can be done with sandboxes. Bay's answer is what is shown; an error is told. */
export function useActs(): Acts {
  const cache = useQueryClient();
  return useMemo(() => {
    const one = async (act: Act, info: Sandbox): Promise<void> => {
      try {
        const box = await bay.sandboxes.get(info.id);
        if (act === "start") put(cache, await (info.compute === "warm" ? box.resume() : box.start()));
        else if (act === "pause") put(cache, await box.pause());
        else if (act === "hibernate") put(cache, await box.hibernate());
        else await box.stop();
      } catch (error) {
        tellError(error);
      }
    };
    const send = async (id: string): Promise<void> => {
      try {
        await bay.sandboxes.delete(id);
      } catch (error) {
        tellError(error);
      }
    };
    return {
      do: async (act, boxes) => void (await Promise.all(boxes.map((box) => one(act, box)))),
      remove: (boxes) => {
        const ids = boxes.map((box) => box.id);
        const [first] = boxes;
        if (first === undefined) return;
        leaving.begin(ids, send);
        const say = sayer(listWords);
        toast(
          boxes.length === 1
            ? say("deletes", { name: called(first) })
            : say("deletesMany", { number: boxes.length }),
          {
            duration: UNDO_MS,
            action: { label: sayer(shared)("undo"), onClick: () => leaving.forget(ids) },
          },
        );
      },
    };
  }, [cache]);
}

/** The name of the start of a sandbox in its state, in the words of the list. */
export function startWord({ compute }: Sandbox): "start" | "resume" | "wake" {
  if (compute === "warm") return "resume";
  return compute === "hibernated" ? "wake" : "start";
}

/** Which acts have a sense in the state of a sandbox, whose memory can go to disk or not. */
export function actsOf(box: Sandbox, savesMemory = false): Record<Act, boolean> {
  const usable = box.status !== "expired";
  return {
    start: usable && (box.compute === "cold" || box.compute === "hibernated" || box.compute === "warm"),
    pause: usable && box.compute === "running",
    hibernate: usable && savesMemory && (box.compute === "running" || box.compute === "warm"),
    stop: usable && box.compute !== "cold",
  };
}

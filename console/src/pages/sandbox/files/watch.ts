/** Keeps the folders and the file that are shown in step with the sandbox, by its own watch of files. */

import { type QueryClient, useQueryClient } from "@tanstack/react-query";
import type { FileEvent } from "bay-sandbox";
import { useEffect, useState } from "react";
import { onWake } from "@/lib/wake";
import { HOME, isWithin, parentOf } from "./paths";
import { fileKeys, watchedFilesOf } from "./sandbox_files";

const SETTLE_MS = 120;
/** Where a program writes without end, it is looked at no more often than this. */
const LEAST_MS = 1_000;
const AGAIN_MS = 3_000;

/** The folders and files that events have changed. `all`: nobody knows which. */
export interface Changed {
  all: boolean;
  folders: Set<string>;
  files: Set<string>;
}

export function nothing(): Changed {
  return { all: false, folders: new Set(), files: new Set() };
}

/** Add what an event has changed. */
export function note(changed: Changed, event: FileEvent): void {
  if (event.type === "overflow" || event.path === undefined) {
    changed.all = true;
    return;
  }
  for (const path of [event.path, event.to]) {
    if (path === undefined) continue;
    changed.folders.add(parentOf(path));
    if (event.is_dir) changed.folders.add(path);
    else changed.files.add(path);
  }
}

class Changes {
  private changed = nothing();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private last = 0;

  constructor(
    private readonly cache: QueryClient,
    private readonly id: string,
  ) {
    document.addEventListener("visibilitychange", this.look);
  }

  take(event: FileEvent): void {
    note(this.changed, event);
    this.look();
  }

  stop(): void {
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.look);
  }

  /** A page that nobody sees asks for nothing: each call keeps the sandbox awake. */
  private readonly look = (): void => {
    if (document.hidden || this.timer !== undefined || isEmpty(this.changed)) return;
    const pause = Math.max(SETTLE_MS, this.last + LEAST_MS - Date.now());
    this.timer = setTimeout(() => this.show(), pause);
  };

  private show(): void {
    this.timer = undefined;
    this.last = Date.now();
    const { all, folders, files } = this.changed;
    this.changed = nothing();
    if (all) return void this.cache.invalidateQueries({ queryKey: fileKeys.all(this.id) });
    for (const path of folders) {
      void this.cache.invalidateQueries({ queryKey: fileKeys.folder(this.id, path) });
    }
    for (const path of files) {
      void this.cache.invalidateQueries({ queryKey: fileKeys.info(this.id, path), exact: true });
    }
  }
}

function isEmpty({ all, folders, files }: Changed): boolean {
  return !all && folders.size === 0 && files.size === 0;
}

/** Watch the workspace, and the folder that is shown if it is elsewhere, while the sandbox runs. Says whether it does. */
export function useWatch(id: string, isAwake: boolean, folder: string): boolean {
  const cache = useQueryClient();
  const [isLive, setLive] = useState(false);
  const elsewhere = isWithin(folder, HOME) ? null : folder;

  useEffect(() => {
    if (!isAwake) return;
    const stop = new AbortController();
    const changes = new Changes(cache, id);
    const run = async (path: string, recursive: boolean, say: (live: boolean) => void): Promise<void> => {
      while (!stop.signal.aborted) {
        try {
          const watch = await (await watchedFilesOf(id)).watch(path, { recursive, signal: stop.signal });
          const deaf = onWake(() => watch.close());
          say(true);
          // It may have changed before it was watched.
          changes.take({ type: "overflow" });
          try {
            for await (const event of watch) changes.take(event);
          } finally {
            deaf();
          }
        } catch {
          // The reason is shown by the calls that people make; this one is tried again.
        }
        if (stop.signal.aborted) return;
        say(false);
        await pause(AGAIN_MS, stop.signal);
      }
    };
    void run(HOME, true, setLive);
    if (elsewhere !== null) void run(elsewhere, false, () => undefined);
    return () => {
      stop.abort();
      changes.stop();
      setLive(false);
    };
  }, [cache, id, isAwake, elsewhere]);
  return isLive;
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

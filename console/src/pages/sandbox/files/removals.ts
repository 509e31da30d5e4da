/** Deletes of files that can still be taken back, as those of sandboxes can. */

import type { FileInfo } from "bay-sandbox";
import { FileMissing } from "bay-sandbox";
import { useSyncExternalStore } from "react";
import { toast } from "sonner";
import { PROOF } from "@/bay";
import { sayer } from "@/lib/words";
import { UNDO_MS } from "@/sandboxes";
import { tell, tellError } from "@/ui/toasts";
import { shared } from "@/words";
import { nameOf, plain } from "./paths";
import { filesOf, isSame } from "./sandbox_files";
import { filesWords } from "./words";

interface Waiting {
  sandbox: string;
  info: FileInfo;
  timer: ReturnType<typeof setTimeout>;
}

function keyOf(sandbox: string, path: string): string {
  return `${sandbox}:${path}`;
}

class Removals {
  private readonly waiting = new Map<string, Waiting>();
  private readonly listeners = new Set<() => void>();
  private shown: ReadonlySet<string> = new Set();

  constructor() {
    // A page that is left has no later: what was to be deleted is deleted now.
    window.addEventListener("pagehide", () => {
      for (const { sandbox, info } of this.waiting.values()) {
        const query = new URLSearchParams({ path: info.path });
        const address = `/v1/sandboxes/${sandbox}/files?${query}`;
        void fetch(address, { method: "DELETE", headers: PROOF, keepalive: true });
      }
      this.forget([...this.waiting.keys()]);
    });
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly keys = (): ReadonlySet<string> => this.shown;

  begin(sandbox: string, infos: readonly FileInfo[], done: () => void): void {
    const begun: string[] = [];
    for (const info of infos) {
      const key = keyOf(sandbox, info.path);
      if (this.waiting.has(key)) continue;
      const end = (): void =>
        void send(sandbox, info).finally(() => {
          this.forget([key]);
          done();
        });
      this.waiting.set(key, { sandbox, info, timer: setTimeout(end, UNDO_MS) });
      begun.push(key);
    }
    this.changed();
    const say = sayer(filesWords);
    const [first] = infos;
    if (first === undefined) return;
    const text =
      infos.length === 1
        ? say("deletes", { name: plain(nameOf(first.path)) })
        : say("deletesMany", { number: infos.length });
    toast(text, {
      duration: UNDO_MS,
      action: { label: sayer(shared)("undo"), onClick: () => this.forget(begun) },
    });
  }

  private forget(keys: readonly string[]): void {
    for (const key of keys) {
      clearTimeout(this.waiting.get(key)?.timer);
      this.waiting.delete(key);
    }
    this.changed();
  }

  private changed(): void {
    this.shown = new Set(this.waiting.keys());
    for (const listener of this.listeners) listener();
  }
}

/** Delete what the user saw; something else that has come to the same path meanwhile stays. */
async function send(sandbox: string, seen: FileInfo): Promise<void> {
  try {
    const files = await filesOf(sandbox);
    const now = await files.stat(seen.path, { follow: false });
    // A folder's time changes with each file that comes into it: what was asked for is the folder with all of it.
    const isThat = seen.type === "directory" ? now.type === seen.type : isSame(seen, now);
    if (isThat) await files.delete(seen.path);
    else tell(sayer(filesWords)("changedSince", { name: plain(nameOf(seen.path)) }));
  } catch (error) {
    if (!(error instanceof FileMissing)) tellError(error);
  }
}

export const removals = new Removals();

/** Says of a path of a sandbox whether it is deleted in a moment. */
export function useRemovals(sandbox: string): (path: string) => boolean {
  const found = useSyncExternalStore(removals.subscribe, removals.keys);
  return (path) => found.has(keyOf(sandbox, path));
}

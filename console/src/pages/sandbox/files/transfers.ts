/**
 * Uploads and downloads under way, with their progress. They go on when another page of the console is looked at.
 *
 * An upload is sent by XMLHttpRequest, the one that says how much was sent. Its body is the browser's own file,
 * read from the disk piece by piece: two gigabytes need no memory.
 */

import { useSyncExternalStore } from "react";
import { PROOF } from "@/bay";

const AT_ONCE = 3;

export type TransferState = "waiting" | "running" | "done" | "failed" | "cancelled";

export interface Transfer {
  readonly number: number;
  readonly sandbox: string;
  readonly direction: "up" | "down";
  readonly path: string;
  readonly state: TransferState;
  readonly done: number;
  /** null: nobody knows. */
  readonly total: number | null;
  readonly error: string;
}

/** Does the work; says how much of it is done, and stops when the signal says so. */
export type Work = (say: (done: number) => void, signal: AbortSignal) => Promise<void>;

interface Running {
  stop: AbortController;
  work: Work;
}

export class Transfers {
  private all: Transfer[] = [];
  private readonly works = new Map<number, Running>();
  private readonly listeners = new Set<() => void>();
  private running = 0;
  private last = 0;
  private isShowing = false;

  /** `later`: where many changes are shown as one. */
  constructor(private readonly later: (show: () => void) => void) {}

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly list = (): readonly Transfer[] => this.all;

  get isBusy(): boolean {
    return this.all.some((one) => one.state === "waiting" || one.state === "running");
  }

  add(what: Pick<Transfer, "sandbox" | "direction" | "path" | "total">, work: Work): void {
    this.last += 1;
    const number = this.last;
    this.works.set(number, { stop: new AbortController(), work });
    this.all = [...this.all, { ...what, number, state: "waiting", done: 0, error: "" }];
    this.next();
    this.changed();
  }

  cancel(number: number): void {
    const state = this.all.find((one) => one.number === number)?.state;
    if (state !== "waiting" && state !== "running") return;
    this.put(number, { state: "cancelled" });
    this.works.get(number)?.stop.abort();
  }

  cancelAll(sandbox: string): void {
    for (const one of this.all) if (one.sandbox === sandbox) this.cancel(one.number);
  }

  /** Try one again that failed or was cancelled. */
  again(number: number): void {
    const running = this.works.get(number);
    const state = this.all.find((one) => one.number === number)?.state;
    if (running === undefined || (state !== "failed" && state !== "cancelled")) return;
    running.stop = new AbortController();
    this.put(number, { state: "waiting", done: 0, error: "" });
    this.next();
  }

  /** Show those no more that are over. */
  clear(sandbox: string): void {
    const isOver = (one: Transfer): boolean =>
      one.sandbox === sandbox && one.state !== "waiting" && one.state !== "running";
    for (const one of this.all) if (isOver(one)) this.works.delete(one.number);
    this.all = this.all.filter((one) => !isOver(one));
    this.changed();
  }

  private next(): void {
    while (this.running < AT_ONCE) {
      const found = this.all.find((one) => one.state === "waiting");
      if (found === undefined) return;
      this.running += 1;
      void this.run(found.number).finally(() => {
        this.running -= 1;
        this.next();
      });
    }
  }

  private async run(number: number): Promise<void> {
    const running = this.works.get(number);
    if (running === undefined) return;
    const { signal } = running.stop;
    this.put(number, { state: "running" });
    try {
      await running.work((done) => this.put(number, { done }), signal);
      if (!signal.aborted) this.put(number, { state: "done" });
    } catch (error) {
      if (signal.aborted) return;
      this.put(number, { state: "failed", error: error instanceof Error ? error.message : String(error) });
    }
  }

  private put(number: number, change: Partial<Transfer>): void {
    this.all = this.all.map((one) => (one.number === number ? { ...one, ...change } : one));
    this.changed();
  }

  private changed(): void {
    if (this.isShowing) return;
    this.isShowing = true;
    this.later(() => {
      this.isShowing = false;
      for (const listener of this.listeners) listener();
    });
  }
}

export const transfers = new Transfers((show) => void setTimeout(show, 80));

/** All of a page's transfers, the first of them the oldest. */
export function useTransfers(sandbox: string): readonly Transfer[] {
  const all = useSyncExternalStore(transfers.subscribe, transfers.list);
  return all.filter((one) => one.sandbox === sandbox);
}

/** Send a file of this browser to a path. */
export function upload(sandbox: string, path: string, file: File): Work {
  return (say, signal) =>
    new Promise((resolve, reject) => {
      const call = new XMLHttpRequest();
      const query = new URLSearchParams({ path, mtime: String(file.lastModified / 1000) });
      call.open("PUT", `/v1/sandboxes/${sandbox}/files/content?${query}`);
      for (const [name, value] of Object.entries(PROOF)) call.setRequestHeader(name, value);
      call.setRequestHeader("Content-Type", "application/octet-stream");
      call.upload.onprogress = ({ loaded }) => say(loaded);
      call.onload = () => {
        if (call.status >= 200 && call.status < 300) resolve();
        else reject(new Error(messageOf(call.responseText, call.status)));
      };
      call.onerror = () => reject(new Error("the connection broke; try again"));
      call.onabort = () => reject(new DOMException("cancelled", "AbortError"));
      signal.addEventListener("abort", () => call.abort(), { once: true });
      call.send(file);
    });
}

/** Bay's own words of a refusal; else the status alone. */
export function messageOf(answer: string, status: number): string {
  try {
    const { error } = JSON.parse(answer) as { error?: { message?: unknown } };
    if (typeof error?.message === "string") return error.message;
  } catch {
    // A proxy answers in words of its own.
  }
  return `the server answered ${status}`;
}

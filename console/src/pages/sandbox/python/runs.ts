/** Runs cells, and follows those that run already; the events of many are shown at once, frame by frame. */

import type { QueryClient } from "@tanstack/react-query";
import { type CellEvent, NotFound, type Sandbox } from "bay-sandbox";
import { bay, said } from "@/bay";
import { keys } from "@/live";
import { type Cell, DEFAULT_KERNEL, newRunId } from "./notebook";
import { NOT_RUN, type Ran, take } from "./outputs";

/** Cells have an interrupt, so their time limit only ends what is forgotten. */
const LIMIT_S = 24 * 3600;
const FLUSH_MS = 60;

export type Change = (id: string, by: (cell: Cell) => Cell) => void;

async function runsOf(box: Sandbox, kernelId: string) {
  const handle = await bay.sandboxes.get(box.id);
  return kernelId === DEFAULT_KERNEL ? handle.python : handle.kernels.get(kernelId);
}

export class Runs {
  private readonly following = new Set<string>();

  constructor(
    private readonly box: Sandbox,
    private readonly cache: QueryClient,
    private readonly change: Change,
    private readonly signal: AbortSignal,
  ) {}

  /** Run its code; the kernel runs one after the other. */
  async run(cell: Cell, kernelId: string): Promise<void> {
    const runId = newRunId();
    const ran: Ran = { ...NOT_RUN, state: "queued" };
    this.change(cell.id, (now) => ({ ...now, runId, kernelId, ran }));
    await this.show(cell.id, runId, async () => {
      const runs = await runsOf(this.box, kernelId);
      return runs.stream(cell.code, { id: runId, timeoutS: LIMIT_S, signal: this.signal });
    });
  }

  /** Show what a run of before this page gives, from its begin. */
  async follow(cell: Cell): Promise<void> {
    const { runId } = cell;
    if (runId === null || this.following.has(runId)) return;
    this.change(cell.id, (now) => ({ ...now, ran: { ...NOT_RUN, state: "queued" } }));
    await this.show(cell.id, runId, async () => {
      return (await runsOf(this.box, cell.kernelId)).follow(runId, { signal: this.signal });
    });
  }

  private async show(
    id: string,
    runId: string,
    open: () => Promise<AsyncIterable<CellEvent>>,
  ): Promise<void> {
    this.following.add(runId);
    let waiting: CellEvent[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    // A cell that was run again meanwhile shows its new run.
    const put = (by: (ran: Ran) => Ran): void =>
      this.change(id, (now) => (now.runId === runId ? { ...now, ran: by(now.ran) } : now));
    const flush = (): void => {
      const events = waiting;
      waiting = [];
      timer = undefined;
      if (!this.signal.aborted) put((ran) => events.reduce(take, ran));
    };
    try {
      for await (const event of await open()) {
        waiting.push(event);
        timer ??= setTimeout(flush, FLUSH_MS);
        if (event.type === "start") this.heard();
      }
      clearTimeout(timer);
      flush();
    } catch (error) {
      clearTimeout(timer);
      if (this.signal.aborted) return; // it runs on, and is followed by the next page
      flush();
      const state = error instanceof NotFound ? "lost" : "error";
      put((ran) => ({ ...ran, state, message: said(error) }));
    } finally {
      this.following.delete(runId);
      this.heard();
    }
  }

  private heard(): void {
    void this.cache.invalidateQueries({ queryKey: keys.of(this.box.id, "kernels") });
  }
}

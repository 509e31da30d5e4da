/** The history of one sandbox: executions, and notes on them. */

import { get, type CallOptions } from "./call.js";
import { SandboxNoun } from "./http.js";
import { filters, wire } from "./names.js";
import type { HistoryEntry } from "./types.js";

type ExecType = HistoryEntry["exec_type"];

/** The filters of `box.history`, and which part of it. */
export interface HistoryOptions extends CallOptions {
  execType?: ExecType;
  successOnly?: boolean;
  failedOnly?: boolean;
  /** With commas between: finds entries with any of them. */
  tags?: string;
  hasNotes?: boolean;
  hasDescription?: boolean;
  /** 100 unless given, 500 at most. */
  limit?: number;
  offset?: number;
}

export interface AnnotateOptions extends CallOptions {
  description?: string | null;
  tags?: string | null;
  notes?: string | null;
}

/** The executions of `shell`, `python/exec` and the browser in one sandbox, as far back as they are kept. */
export class History extends SandboxNoun {
  /** The executions of `shell` here, newest first. Never starts compute. */
  async history({ signal, ...options }: HistoryOptions = {}): Promise<HistoryEntry[]> {
    const call = { ...get(this.path("history"), filters(options)), signal };
    return (await this.http.json<{ entries: HistoryEntry[] }>(call)).entries;
  }

  /** One entry of the history. Throws NotFound when there is none, or when it has expired. */
  async historyEntry(executionId: string, { signal }: CallOptions = {}): Promise<HistoryEntry> {
    return this.http.json<HistoryEntry>({ ...get(this.path("history", executionId)), signal });
  }

  /** The newest entry of the history. Throws NotFound when there is none. */
  async lastExecution({ execType, signal }: CallOptions & { execType?: ExecType } = {}): Promise<HistoryEntry> {
    return this.http.json<HistoryEntry>({ ...get(this.path("history", "last"), filters({ execType })), signal });
  }

  /** Note something about an entry. What is left out or null stays as it is, an empty text takes it away. */
  async annotate(executionId: string, { signal, ...notes }: AnnotateOptions): Promise<HistoryEntry> {
    const path = this.path("history", executionId);
    return this.http.json<HistoryEntry>({ method: "PATCH", path, body: wire(notes), safe: true, signal });
  }
}

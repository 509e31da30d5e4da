/** The browser of one sandbox. */

import { get, type Call, type CallOptions } from "./call.js";
import { SandboxNoun, type Http } from "./http.js";
import { wire } from "./names.js";
import type { BrowserBatch, BrowserReplay, BrowserResult, BrowserTrace } from "./types.js";

/** A call waits as long for its turn as for its end. */
const TURNS = 2;

/** The options of calls of `box.browser`. A skill's run has no `learn`. */
export interface BrowserOptions extends CallOptions {
  /** Whole seconds. */
  timeoutS?: number;
  /** For the history, as are the tags, which have commas between. */
  description?: string;
  tags?: string;
  /** Store a trace, to make a skill of. */
  learn?: boolean;
  /** Store a trace. */
  includeTrace?: boolean;
}

export interface BatchOptions extends BrowserOptions {
  /** True unless given. */
  stopOnError?: boolean;
}

/**
 * The browser of one sandbox, whose profile lists the capability `browser`. It stays open between calls, which run
 * one at a time, and its cookies stay with the sandbox's files.
 */
export class Browser extends SandboxNoun {
  constructor(http: Http, sandboxId: string) {
    super(http, sandboxId, ["browser"]);
  }

  /**
   * Run the command that `cmd` is behind `agent-browser` on a command line, such as `open URL`.
   *
   * `timeoutS` (30) is from 1 to 300; after that the result has exit code -1. Throws CapabilityNotSupported,
   * QuotaExceeded when eight calls wait already, and Timeout when its turn does not come in time.
   */
  async exec(cmd: string, options: BrowserOptions = {}): Promise<BrowserResult> {
    return this.http.json<BrowserResult>(this.call(["exec"], { timeoutS: 30, ...options }, { cmd }));
  }

  /**
   * Run 1 to 200 commands one after the other, `timeoutS` (60, from 1 to 600) for all of them together. A failed one
   * throws nothing: see `success` and `results`. Else as `exec`.
   */
  async execBatch(commands: readonly string[], options: BatchOptions = {}): Promise<BrowserBatch> {
    const body = { commands: [...commands] };
    return this.http.json<BrowserBatch>(this.call(["exec_batch"], { timeoutS: 60, ...options }, body));
  }

  /** Run the commands of the skill's active release, as `execBatch`. Throws NotFound without one. */
  async runSkill(skillKey: string, options: Omit<BatchOptions, "learn"> = {}): Promise<BrowserReplay> {
    return this.http.json<BrowserReplay>(this.call(["skills", skillKey, "run"], { timeoutS: 60, ...options }, {}));
  }

  /** A stored trace. Throws NotFound. */
  async trace(traceRef: string, { signal }: CallOptions = {}): Promise<BrowserTrace> {
    return this.http.json<BrowserTrace>({ ...get(this.path("traces", traceRef)), signal });
  }

  private call(parts: string[], options: BatchOptions & { timeoutS: number }, body: object): Call {
    const { timeoutS, signal, ...rest } = options;
    const whole = wire({ ...body, ...rest, timeout: timeoutS });
    return { method: "POST", path: this.path(...parts), body: whole, waitS: TURNS * timeoutS, signal };
  }
}

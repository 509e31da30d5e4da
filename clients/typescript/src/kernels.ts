/** Kernels in a sandbox, which keep their variables, and the cells run in them. */

import { get, once, sandboxPath, type Call, type CallOptions } from "./call.js";
import { CellResult, Shown } from "./cells.js";
import { NotFound } from "./errors.js";
import { SandboxNoun, type Followed, type Http } from "./http.js";
import { lineObject } from "./lines.js";
import { newId, wire, type Json } from "./names.js";
import { Patience } from "./retries.js";
import type { CellEvent, CellOptions, Kernel, KernelOptions, KernelSpec } from "./types.js";

/** How much longer than other calls a kernel may take to start. */
const START_S = 60;
const LOST = "its kernel no longer exists: the sandbox was stopped, or the cell ended too long ago";

/** Runs code in one kernel of a sandbox. */
export class KernelRuns extends SandboxNoun {
  constructor(http: Http, sandboxId: string, kernelId: string) {
    super(http, sandboxId, ["kernels", kernelId]);
  }

  /**
   * Run code to its end and give what it printed, showed and gave; variables stay for the next.
   *
   * After `timeoutS` seconds of running it is interrupted, and the result says so. Calls at the same time run one
   * after the other. An aborted call leaves the code running until its time limit, unless it is `attached`.
   */
  async run(code: string, options: CellOptions = {}): Promise<CellResult> {
    const cell = this.cell(code, options);
    const shown = new Shown();
    for await (const event of this.events(cell)) shown.take(event);
    return new CellResult(cell.id, shown);
  }

  /** Run code and yield what it does as it happens, also over broken connections; the last event is its end. */
  stream(code: string, options: CellOptions = {}): AsyncGenerator<CellEvent, void> {
    return this.events(this.cell(code, options));
  }

  /**
   * The events of code that was run under that `id`, from the first to its end; it is not run again. When Bay knows
   * it no more, ten minutes after its end, the one event is an `end` with the status `lost`.
   */
  follow(cellId: string, { signal }: CallOptions = {}): AsyncGenerator<CellEvent, void> {
    return this.events(new CellPlace(this.path(), cellId, null, this.http.config.retryS, signal));
  }

  private cell(code: string, { signal, id = newId("cell"), timeoutS = 300, ...rest }: CellOptions): CellPlace {
    return new CellPlace(this.path(), id, wire({ code, timeoutS, ...rest }), this.http.config.retryS, signal);
  }

  private async *events(cell: CellPlace): AsyncGenerator<CellEvent, void> {
    yield* this.http.followed(cell);
    if (cell.lost) yield { seq: cell.next, type: "end", status: "lost", message: LOST };
  }
}

/** The default Python kernel of a sandbox, made by the first code that is run in it. */
export class Python extends KernelRuns {
  constructor(http: Http, sandboxId: string) {
    super(http, sandboxId, "default");
  }
}

/** A kernel of a sandbox, to run code in. `info` is what was last heard of it. */
export class Repl extends KernelRuns {
  constructor(
    http: Http,
    sandboxId: string,
    public info: Kernel,
  ) {
    super(http, sandboxId, info.id);
  }

  /** Its id, `kern-…`, or `default`. */
  get id(): string {
    return this.info.id;
  }

  /** Ask the server how it is; sets and returns `info`. Throws NotFound after its session's end. */
  async refresh({ signal }: CallOptions = {}): Promise<Kernel> {
    return this.ask({ ...get(this.path(), {}, START_S), signal });
  }

  /** Interrupt the cell that runs, which then ends as `interrupted`. */
  async interrupt({ signal }: CallOptions = {}): Promise<Kernel> {
    return this.ask({ method: "POST", path: this.path("interrupt"), waitS: START_S, signal });
  }

  /** Begin anew under the same id, without variables. */
  async restart({ signal }: CallOptions = {}): Promise<Kernel> {
    return this.ask({ method: "POST", path: this.path("restart"), waitS: START_S, signal });
  }

  /** End it and everything it started. */
  async delete({ signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: this.path(), waitS: START_S, signal });
  }

  private async ask(call: Call): Promise<Kernel> {
    this.info = await this.http.json<Kernel>(call);
    return this.info;
  }
}

/** The kernels of one sandbox. */
export class Kernels extends SandboxNoun {
  constructor(http: Http, sandboxId: string) {
    super(http, sandboxId, ["kernels"]);
  }

  /** A kernel of its own, beside the default one; `spec` is one of `specs`, python3 unless named. */
  async create({ signal, ...options }: KernelOptions = {}): Promise<Repl> {
    const call = once(this.path(), wire(options), undefined, { waitS: START_S, signal });
    return this.repl(await this.http.json<Kernel>(call));
  }

  /** The kernel of that id. Throws NotFound when it ended with its session. */
  async get(kernelId: string, { signal }: CallOptions = {}): Promise<Repl> {
    return this.repl(await this.http.json<Kernel>({ ...get(this.path(kernelId)), signal }));
  }

  /** All there are: none in a sandbox without compute, which is not started for that. */
  async list({ signal }: CallOptions = {}): Promise<Repl[]> {
    return (await this.http.all<Kernel>({ ...get(this.path()), signal })).map((info) => this.repl(info));
  }

  /** The kinds of kernel that the sandbox's image has. */
  async specs({ signal }: CallOptions = {}): Promise<KernelSpec[]> {
    const path = sandboxPath(this.sandboxId, "kernelspecs");
    return this.http.all<KernelSpec>({ ...get(path, {}, START_S), signal });
  }

  private repl(info: Kernel): Repl {
    return new Repl(this.http, this.sandboxId, info);
  }
}

/** The position in the events of one run of code. */
class CellPlace implements Followed<CellEvent> {
  readonly early: string;
  next = 0;
  ended = false;
  /** Whether the server no longer knows the cell. */
  lost = false;
  private begun: boolean;
  private readonly patience: Patience;

  /** Without a body it was begun before. */
  constructor(
    private readonly path: string,
    readonly id: string,
    private readonly body: Json | null,
    retryS: number,
    private readonly signal: AbortSignal | undefined,
  ) {
    this.early = `the events of ${id} ended before its end`;
    this.begun = body === null;
    this.patience = new Patience(retryS);
  }

  /** The run; once the server has it, what came of it since. The id keeps it from running twice. */
  call(): Call {
    const { signal } = this;
    const events = `${this.path}/cells/${this.id}/events`;
    if (this.begun) return { ...get(events, { since: this.next, follow: true }), signal };
    const body = { id: this.id, ...this.body };
    return { method: "POST", path: `${this.path}/run`, body, safe: true, waitS: START_S, signal };
  }

  opened(): void {
    this.begun = true;
  }

  accept(line: string): CellEvent | undefined {
    const event = lineObject(line) as unknown as CellEvent;
    this.patience.renew();
    if (event.seq < this.next) return undefined;
    this.next = event.seq + 1;
    this.ended = event.type === "end";
    return event;
  }

  pause(error: unknown): number {
    if (!(this.begun && error instanceof NotFound)) return this.patience.pause(error);
    this.lost = this.ended = true;
    return 0;
  }
}

/** The commands of a sandbox. */

import { Attachment, type AttachOptions } from "./attach.js";
import { toBase64, type Source } from "./bytes.js";
import { get, once, SLICE_S, type Call, type CallOptions } from "./call.js";
import { BayError, Conflict, ConnectionFailed, NotFound, Timeout } from "./errors.js";
import { SandboxNoun, type Http } from "./http.js";
import { newId, wire, type Json } from "./names.js";
import { ended, Lined, type LinedOptions, type OutputChunk } from "./output.js";
import { Collected, chunksOf, type RunResult } from "./results.js";
import { cleanUp, Limit, now, sleep } from "./retries.js";
import { within } from "./socket.js";
import type { Exec, RunOptions, Screen, SpawnOptions } from "./types.js";

/** A text is run by a shell, a list is run as it is. */
export type Command = string | readonly string[];

/** How much later than its own limit a command may be reported as ended before the SDK gives up. */
const GRACE_S = 30;
/** How long a command may leave what is written to it unread. */
const TAKING_S = 86_400;
/** How long the end of a command that was given up is tried for, which may not have begun yet. */
const ENDING_S = 5;
const BETWEEN_S = 0.02;
/** How much input a start carries; more is fed while the command runs. */
const STDIN_BYTES = 4 << 20;

export interface OutputOptions extends CallOptions {
  /** A byte offset; without, the start, or for a second reader the oldest byte still kept. */
  since?: number;
  /** False: end with the output of now. */
  follow?: boolean;
  /** Throw Timeout when nothing comes for so many seconds. */
  timeoutS?: number;
  /** Have the command wait for this reader. */
  waitForReader?: boolean;
}

/**
 * A command that was started in a sandbox. `info` is what was last heard of it.
 *
 * Unless it was started with `waitForReader: false` it waits for what reads its output: its first `output`,
 * `attach` or `wait` gets every byte. It is iterable: `for await (const chunk of proc)` is `proc.output()`.
 */
export class Proc extends SandboxNoun {
  private collected: Collected | null;
  private wasRead = false;
  /** Over when no `wait` reads into `collected`: two at once would read everything twice. */
  private collecting: Promise<unknown> = Promise.resolve();

  constructor(
    http: Http,
    sandboxId: string,
    /** What was last heard of it. */
    public info: Exec,
    collected: Collected | null = null,
  ) {
    super(http, sandboxId, ["execs", info.id]);
    this.collected = info.wait_for_reader ? collected : null;
  }

  /** Its id, `exec-…`. */
  get id(): string {
    return this.info.id;
  }

  /** Ask the server how it is; sets and returns `info`. */
  async refresh({ signal }: CallOptions = {}): Promise<Exec> {
    return this.ask({ ...get(this.path()), signal });
  }

  /** End it and all it started: terminate, then kill. Answers after its end; again is no error. */
  async kill({ signal }: CallOptions = {}): Promise<Exec> {
    return this.ask({ method: "DELETE", path: this.path(), safe: true, waitS: GRACE_S, signal });
  }

  /**
   * Wait until it has ended, for ever without a `timeoutS` (seconds), and give what it printed.
   *
   * Of a command that was started here, and whose output is not read otherwise, that is all up to 16 MiB, else
   * what the server still keeps. Throws Timeout when it still runs then; it is left running.
   */
  async wait({ timeoutS, signal }: CallOptions & { timeoutS?: number | undefined } = {}): Promise<RunResult> {
    const limit = new Limit(timeoutS, () => this.stillRunning(timeoutS));
    if (this.collected) return this.collect(this.collected, limit, signal);
    for (;;) {
      const left = Math.min(limit.leftS() ?? SLICE_S, SLICE_S);
      const info = await this.ask({ ...get(this.path(), { wait: left, chunks: true }, left), signal });
      if (info.state !== "running") return this.result(new Collected(), info);
      await sleep(BETWEEN_S, signal);
    }
  }

  /**
   * Its output, stdout and stderr in the order in which they came, until it ends.
   *
   * A dropped connection is taken up again where it broke, for as long as the client's `retryS`. Output that is no
   * longer kept shows as a jump of `offset`, and with a `since` it is OutputGone.
   */
  async *output(options: OutputOptions = {}): AsyncGenerator<OutputChunk, void> {
    const silent = () => new Timeout(`${this.id} has printed nothing for ${options.timeoutS} s`);
    const limit = new Limit(options.timeoutS, silent, true);
    const claims = options.waitForReader ?? this.info.wait_for_reader;
    const since = this.begin(options.since);
    const place = this.place(claims, { since, follow: options.follow, limit }, options.signal);
    yield* this.http.followed(place);
    this.info = ended(this.info, place.end, place.next);
  }

  [Symbol.asyncIterator](): AsyncGenerator<OutputChunk, void> {
    return this.output();
  }

  /** Attach to it: live output, input, size and signals over one WebSocket. */
  async attach({ since, repaint = false, signal }: AttachOptions = {}): Promise<Attachment> {
    const begun = this.begin(since);
    const claims = this.info.wait_for_reader;
    const door = { sandboxId: this.sandboxId, execId: this.id, repaint, claims };
    return Attachment.open(this.http, door, this.info, repaint ? since : begun, signal);
  }

  /** Give it input; returns when it, or the pipe to it, has taken all. Throws Conflict when it has ended. */
  async write(data: string | Uint8Array, options: CallOptions = {}): Promise<void> {
    if (data.length) await this.http.json(this.stdin(false, options, data));
  }

  /** Give it all of a stream by one request, as fast as it takes it. Its stdin stays open. */
  async feed(pieces: Source, options: CallOptions = {}): Promise<void> {
    await this.http.json(this.stdin(false, options, pieces));
  }

  /** Close its input, after what was written before. Throws Conflict when it has ended. */
  async closeStdin(options: CallOptions = {}): Promise<void> {
    const call = this.stdin(true, options);
    try {
      await this.http.json(call);
    } catch (error) {
      if (!(error instanceof ConnectionFailed)) throw error;
      // It may be closed, and the command has ended of that by now.
      await this.http.json({ ...call, safe: true }).catch((again: unknown) => {
        if (!(again instanceof Conflict)) throw again;
      });
    }
  }

  /** Send its process group, or its terminal's, a signal: `"INT"` or a number. Conflict once it is over. */
  async signal(signal: string | number, options: CallOptions = {}): Promise<Exec> {
    return this.ask({ method: "POST", path: this.path("signal"), body: { signal }, signal: options.signal });
  }

  /** Say how large its terminal is now. Throws Conflict when it has none. */
  async resize(rows: number, cols: number, { signal }: CallOptions = {}): Promise<Exec> {
    return this.ask({ method: "POST", path: this.path("resize"), body: { rows, cols }, safe: true, signal });
  }

  /** Its terminal's screen, and up to `scrollback` lines above. */
  async screen(scrollback = 0, { signal }: CallOptions = {}): Promise<Screen> {
    return this.http.json<Screen>({ ...get(this.path("screen"), { scrollback }), signal });
  }

  /** Where a reader begins that asks for `since`. */
  private begin(since: number | undefined): number | undefined {
    const isFirst = this.collected !== null && this.collected.nextOffset === 0;
    this.collected = null;
    this.wasRead = true;
    return since === undefined && isFirst ? 0 : since;
  }

  /** Read its output into `collected` until it ends, once no other `wait` does. */
  private async collect(collected: Collected, limit: Limit, signal?: AbortSignal): Promise<RunResult> {
    const before = this.collecting;
    let done = (): void => undefined;
    this.collecting = Promise.all([before, new Promise<void>((resolve) => (done = resolve))]);
    try {
      await within(before, limit.leftS() ?? Infinity, signal);
      limit.leftS();
      return await this.read(collected, limit, signal);
    } finally {
      done();
    }
  }

  private async read(collected: Collected, limit: Limit, signal?: AbortSignal): Promise<RunResult> {
    const place = this.place(true, { limit }, signal);
    place.next = collected.nextOffset;
    for await (const chunk of this.http.followed(place)) collected.add(chunk);
    this.info = ended(this.info, place.end, place.next);
    await this.refresh({ signal }).catch(unless(NotFound)); // it has ended long ago
    return collected.result(this.info);
  }

  private result(collected: Collected, info: Exec): RunResult {
    for (const chunk of chunksOf(info)) collected.add(chunk);
    return collected.result(info, this.wasRead);
  }

  private place(claims: boolean, options: LinedOptions, signal?: AbortSignal): Lined {
    const follow = options.follow ?? true;
    const callFrom = (since: number): Call => {
      return { ...get(this.path("output"), { since, follow, wait_for_reader: claims }), signal };
    };
    return new Lined(this.id, this.http.config.retryS, callFrom, options);
  }

  private stdin(eof: boolean, { signal }: CallOptions, content?: Source): Call {
    const headers = { "Content-Type": "application/octet-stream" };
    const call: Call = { method: "POST", path: this.path("stdin"), query: eof ? { eof } : {}, waitS: TAKING_S, signal };
    return content === undefined ? call : { ...call, headers, content };
  }

  private stillRunning(timeoutS: number | undefined): Timeout {
    return new Timeout(`${this.id} still runs after ${timeoutS} s; wait longer, or kill it`);
  }

  private async ask(call: Call): Promise<Exec> {
    this.info = await this.http.json<Exec>(call);
    return this.info;
  }
}

/** The commands of one sandbox. */
export class Execs extends SandboxNoun {
  constructor(http: Http, sandboxId: string) {
    super(http, sandboxId, ["execs"]);
  }

  /** The command with that id. Throws NotFound 10 minutes after its end. */
  async get(execId: string, { signal }: CallOptions = {}): Promise<Proc> {
    return this.proc(await this.http.json<Exec>({ ...get(this.path(execId)), signal }));
  }

  /** All of them, page by page as they are taken. */
  async *list({ signal }: CallOptions = {}): AsyncGenerator<Proc, void> {
    for await (const info of this.http.paged<Exec>(this.path(), {}, signal)) yield this.proc(info);
  }

  /** Start a command and return at once. When the call is aborted the command is ended. */
  async spawn(command: Command, { stdin, signal, waitForReader, ...rest }: SpawnOptions = {}): Promise<Proc> {
    const options = { ...wire(rest), wait_for_reader: waitForReader !== false };
    const body = execBody(command, stdin, options);
    const execId = newId("exec");
    return this.endedWhenAborted(execId, signal, async () => {
      return this.proc(await this.start(body, execId, undefined, signal), new Collected());
    });
  }

  /** Start a command and wait for its end. When the call is aborted the command is ended. */
  async run(command: Command, options: RunOptions = {}): Promise<RunResult> {
    const { check, maxOutputBytes, keep, execId = newId("exec"), signal } = options;
    const collected = new Collected(maxOutputBytes, keep);
    const result = await this.endedWhenAborted(execId, signal, () => {
      return this.runToEnd(command, options, collected, execId);
    });
    return check ? result.check() : result;
  }

  /** End a command by its id, and all it started; also one that is starting just now. */
  async end(execId: string, { signal }: CallOptions = {}): Promise<void> {
    const call: Call = { method: "DELETE", path: this.path(execId), safe: true, waitS: GRACE_S, signal };
    const until = now() + ENDING_S;
    for (;;) {
      try {
        await this.http.json(call);
        return;
      } catch (error) {
        if (!(error instanceof NotFound) || now() > until) throw error;
      }
      await sleep(ENDING_S / 20, signal);
    }
  }

  private async runToEnd(
    command: Command,
    { timeoutS = 30, cwd, env, user, stdin, keepAlive = true, signal }: RunOptions,
    collected: Collected,
    execId: string,
  ): Promise<RunResult> {
    const limit = timeoutS === null ? undefined : timeoutS + GRACE_S;
    const options = { timeout_s: timeoutS ?? undefined, cwd, env, user, keep_alive: keepAlive, wait_for_reader: true };
    const isLarge = stdin !== undefined && stdin.length > STDIN_BYTES;
    const body = isLarge
      ? execBody(command, undefined, { ...options, stdin_open: true })
      : execBody(command, stdin, options);
    const info = await this.start(body, execId, isLarge ? undefined : Math.min(limit ?? SLICE_S, SLICE_S), signal);
    const proc = this.proc(info, collected);
    if (isLarge) return this.fed(proc, stdin, { timeoutS: limit, signal });
    if (info.state === "running") return proc.wait({ timeoutS: limit, signal });
    for (const chunk of chunksOf(info)) collected.add(chunk);
    return collected.result(info);
  }

  /** The result of a command that is given its input while its output is read. */
  private async fed(
    proc: Proc,
    stdin: string | Uint8Array,
    waiting: CallOptions & { timeoutS?: number | undefined },
  ): Promise<RunResult> {
    const feeding = this.giveAll(this.proc(proc.info), stdin, waiting);
    feeding.catch(() => undefined); // it is awaited below
    const result = await proc.wait(waiting);
    await feeding;
    return result;
  }

  private async giveAll(proc: Proc, stdin: string | Uint8Array, { signal }: CallOptions): Promise<void> {
    try {
      await proc.write(stdin, { signal });
      await proc.closeStdin({ signal });
    } catch (error) {
      if (error instanceof Conflict || error instanceof NotFound) return; // it has ended, or closed its input
      await proc.kill().catch(unless(BayError)); // it would wait for the rest for ever
      throw error;
    }
  }

  private async endedWhenAborted<T>(
    execId: string,
    signal: AbortSignal | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted(); // else a command of that id, which another call began, would be ended
    try {
      return await work();
    } catch (error) {
      if (signal?.aborted) await cleanUp((own) => this.end(execId, { signal: own }));
      throw error;
    }
  }

  // The id is ours and is the idempotency key too, so sending the start twice cannot run the command twice.
  private async start(body: Json, id: string, waitS?: number, signal?: AbortSignal): Promise<Exec> {
    const query = waitS === undefined ? {} : { wait: waitS, chunks: true };
    try {
      return await this.http.json<Exec>(once(this.path(), { ...body, id }, id, { query, waitS: waitS ?? 0, signal }));
    } catch (error) {
      if (!(error instanceof Conflict)) throw error;
      // The first answer may have been lost.
      return (await this.get(id, { signal }).catch(() => Promise.reject(error))).info;
    }
  }

  private proc(info: Exec, collected: Collected | null = null): Proc {
    return new Proc(this.http, this.sandboxId, info, collected);
  }
}

function execBody(command: Command, stdin: string | Uint8Array | undefined, options: Json): Json {
  const what = typeof command === "string" ? { command } : { argv: [...command] };
  const input = typeof stdin === "string" || stdin === undefined ? { stdin } : { stdin_base64: toBase64(stdin) };
  return wire({ ...what, ...input, ...options });
}

/** Passes over errors of that kind. */
function unless(kind: typeof BayError): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof kind)) throw error;
  };
}

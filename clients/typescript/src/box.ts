/** A sandbox object, which runs commands and keeps files. */

import { Attachment } from "./attach.js";
import { Browser } from "./browser.js";
import { COPY_S, get, once, type Call, type CallOptions } from "./call.js";
import { Checkpoints, ref, type RestoreOptions } from "./checkpoints.js";
import { NotFound } from "./errors.js";
import { events, type EventOptions } from "./events.js";
import { Execs, type Command, type Proc } from "./execs.js";
import { Files } from "./files.js";
import type { Http } from "./http.js";
import { Kernels, Python } from "./kernels.js";
import { wire } from "./names.js";
import { Network } from "./network.js";
import { Ports, type FetchOptions } from "./ports.js";
import type { RunResult } from "./results.js";
import { Services } from "./services.js";
import { Tunnel } from "./tunnel.js";
import type {
  Checkpoint, Event, ForkOptions, Port, Process, RunOptions, Sandbox, SandboxMetrics, SandboxUsage, ShellResult, SpawnOptions,
  UpdateOptions,
} from "./types.js";

/** The server's default wait for a resume. */
const RESUME_S = 60;

export interface TerminalOptions extends CallOptions {
  /** 24 and 80 unless given. */
  rows?: number;
  cols?: number;
  /** One that was left: its last screen comes first. */
  execId?: string;
}

export interface MetricsOptions extends CallOptions {
  since?: Date;
  until?: Date;
  step?: 10 | 60 | 900;
}

export interface WaitOptions extends CallOptions {
  /** How many seconds to wait until it runs. */
  wait?: number;
}

export interface ShellOptions extends CallOptions {
  timeoutS?: number;
  cwd?: string;
  description?: string;
  tags?: string;
}

/**
 * A sandbox.
 *
 * `info` is what was last heard of it; `files`, `execs`, `kernels`, `python`, `browser` and `services` are
 * what is in it. `network` is what it reaches, `ports` where it is reached. Any call that needs compute wakes the sandbox, under
 * the same id. At the end of an `await using` block it is deleted.
 */
export class Box extends Checkpoints implements AsyncDisposable {
  readonly files: Files;
  readonly execs: Execs;
  readonly kernels: Kernels;
  readonly python: Python;
  readonly browser: Browser;
  readonly services: Services;
  readonly network: Network;
  readonly ports: Ports;

  constructor(
    http: Http,
    public info: Sandbox,
  ) {
    super(http, info.id);
    this.files = new Files(http, info.id);
    this.execs = new Execs(http, info.id);
    this.kernels = new Kernels(http, info.id);
    this.python = new Python(http, info.id);
    this.browser = new Browser(http, info.id);
    this.services = new Services(http, info.id);
    this.network = new Network(http, info.id);
    this.ports = new Ports(http, info.id);
  }

  /** Its id, `sandbox-…`. */
  get id(): string {
    return this.info.id;
  }

  /** Its name, null without one. */
  get name(): string | null {
    return this.info.name;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.delete();
  }

  /** Ask the server how it is; sets and returns `info`. */
  async refresh({ signal }: CallOptions = {}): Promise<Sandbox> {
    return this.ask({ ...get(this.path()), signal });
  }

  /**
   * Run a command to its end. A text goes through a shell, a list is run as it is.
   *
   * After `timeoutS` seconds (30; null: no limit) the command and all it started are ended, and the result says
   * `timedOut`. Throws CommandFailed with `check` when the result is not `ok`. When `signal` aborts, the command is
   * ended.
   */
  async run(command: Command, options: RunOptions = {}): Promise<RunResult> {
    return this.execs.run(command, options);
  }

  /** Start a command and return at once, with what reads its output, writes to it and waits for it. */
  async spawn(command: Command, options: SpawnOptions = {}): Promise<Proc> {
    return this.execs.spawn(command, options);
  }

  /** A login shell on a terminal of its own; leaving it leaves the shell running. Needs a WebSocket. */
  async terminal({ rows, cols, execId, signal }: TerminalOptions = {}): Promise<Attachment> {
    const door = { sandboxId: this.id, execId, repaint: true, size: { rows, cols } };
    return Attachment.open(this.http, door, null, undefined, signal);
  }

  /** A TCP connection to what listens on a port of it; wakes it. Throws PortClosed when nothing listens there. */
  async tunnel(port: number, options: CallOptions = {}): Promise<Tunnel> {
    return Tunnel.open(this.http, this.id, port, options);
  }

  /**
   * Where a browser reaches a port of it; without one the port that its `url` setting names. A port with access
   * `owner` needs the key, or a link (`ports.link`), all the same. Throws NotFound without a listener.
   */
  async url(port?: number, options: CallOptions = {}): Promise<string> {
    const found = port === undefined ? (await this.refresh(options)).url?.href : await this.urlOf(port, options);
    if (found) return found;
    const lack = port === undefined ? "no port that its URL leads to" : `nothing that listens on port ${port}`;
    throw new NotFound(`${this.name ?? this.id} has ${lack}`);
  }

  /** The listener on a port, once there is one. Throws Timeout after `timeoutS` seconds without. */
  async waitFor(port: number, options: CallOptions & { timeoutS?: number } = {}): Promise<Port> {
    return this.ports.waitFor(port, options);
  }

  /** Ask an app that listens on a port of it by HTTP; see `ports.fetch`. */
  async fetch(port: number, path = "/", options: FetchOptions = {}): Promise<Response> {
    return this.ports.fetch(port, path, options);
  }

  /** The processor time, memory, processes and disk that it uses now; with `over` measured for so many seconds. */
  async usage({ over, signal }: CallOptions & { over?: number } = {}): Promise<SandboxUsage> {
    return this.http.json<SandboxUsage>({ ...get(this.path("usage"), { over }, over ?? 0), signal });
  }

  /**
   * Its use of processors, memory, devices, disk and network over time: the last hour, or from `since` to
   * `until`, up to 31 days. Points are at least `step` seconds apart (10, 60 or 900). Never starts compute.
   */
  async metrics({ since, until, step, signal }: MetricsOptions = {}): Promise<SandboxMetrics> {
    return this.http.json<SandboxMetrics>({ ...get(this.path("metrics"), { from: since, to: until, step }), signal });
  }

  /** Its running processes. Never starts compute. */
  async processes({ signal }: CallOptions = {}): Promise<Process[]> {
    return this.http.all<Process>({ ...get(this.path("processes")), signal });
  }

  /** Send a process a signal, by name or number. Throws NotFound when there is none of that `pid`. */
  async signalProcess(pid: number, signal: string | number = "TERM", options: CallOptions = {}): Promise<void> {
    const path = this.path("processes", String(pid), "signal");
    await this.http.json({ method: "POST", path, body: { signal }, signal: options.signal });
  }

  /**
   * Run a shell command by the v1 call `shell/exec`, which keeps it in the sandbox's history. After `timeoutS` (30)
   * whole seconds it is ended, which is no error: `success` is false and `exit_code` -1. `description` and `tags`
   * (with commas between) are for the history.
   */
  async shell(command: string, { timeoutS = 30, signal, ...rest }: ShellOptions = {}): Promise<ShellResult> {
    const body = wire({ command, timeout: timeoutS, ...rest });
    return this.http.json<ShellResult>({ method: "POST", path: this.path("shell", "exec"), body, waitS: timeoutS, signal });
  }

  /** Ask for compute, and wait up to `wait` seconds until it is there. */
  async start({ wait, signal }: WaitOptions = {}): Promise<Sandbox> {
    const call: Call = { method: "POST", path: this.path("start"), query: { wait }, safe: true, waitS: wait ?? 0 };
    return this.ask({ ...call, signal });
  }

  /** Freeze it in memory with all that runs in it; answers once it is frozen. Again is no error. */
  async pause({ signal }: CallOptions = {}): Promise<Sandbox> {
    return this.ask({ method: "POST", path: this.path("pause"), safe: true, signal });
  }

  /** Write its memory to disk with all that runs in it; answers once that is done. Again is no error. */
  async hibernate({ signal }: CallOptions = {}): Promise<Sandbox> {
    return this.ask({ method: "POST", path: this.path("hibernate"), safe: true, signal });
  }

  /** Let it run again, and wait up to `wait` seconds (60) until it does. One that is cold is started. */
  async resume({ wait, signal }: WaitOptions = {}): Promise<Sandbox> {
    const call: Call = { method: "POST", path: this.path("resume"), query: { wait }, safe: true };
    return this.ask({ ...call, waitS: wait ?? RESUME_S, signal });
  }

  /** Change the given fields. Null takes a name or a URL away; of a timeout it means never. */
  async update({ url, signal, ...rest }: UpdateOptions): Promise<Sandbox> {
    const body = wire({ ...rest, url: typeof url === "number" ? { port: url } : url });
    return this.ask({ method: "PATCH", path: this.path(), body, safe: true, signal });
  }

  /**
   * Put the files back as they were; the present ones are gone unless a checkpoint has them. Of a checkpoint with
   * memory, programs go on as they were, unless `memory` is false.
   */
  async restore(checkpoint: string | Checkpoint, { memory, signal }: RestoreOptions = {}): Promise<Sandbox> {
    const body = memory === undefined ? undefined : { memory };
    return this.ask({ method: "POST", path: this.of(checkpoint, "restore"), body, waitS: COPY_S, signal });
  }

  /**
   * New sandboxes with files of their own that begin as those of a checkpoint, or as they are now. With `memory` each
   * goes on with what runs in this one, or ran at the checkpoint. They live on when this one is deleted; at the end of
   * an `await using` block of theirs all are deleted.
   */
  async fork({ checkpoint, signal, ...rest }: ForkOptions = {}): Promise<Boxes> {
    const body = wire({ ...rest, checkpoint: checkpoint && ref(checkpoint) });
    const made = await this.http.all<Sandbox>(once(this.path("fork"), body, undefined, { waitS: COPY_S, signal }));
    return Boxes.from(made, (info) => new Box(this.http, info)) as Boxes;
  }

  /** Give the compute back; files stay, processes end. Again is no error. */
  async stop({ signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "POST", path: this.path("stop"), safe: true, signal });
  }

  /** Remove the sandbox and its own files for good. Again is no error. */
  async delete({ signal }: CallOptions = {}): Promise<void> {
    this.http.leases.drop(this.id);
    await this.http.json({ method: "DELETE", path: this.path(), safe: true, signal });
  }

  /** Put `expires_at` off by `seconds` (or text such as `"10m"`), counted from now if it has passed. */
  async extendTtl(seconds: number | string, { signal }: CallOptions = {}): Promise<Sandbox> {
    return this.ask(once(this.path("extend_ttl"), { extend_by: seconds }, undefined, { signal }));
  }

  /** Count as activity: its idle timeout, or a frozen one's warm timeout, starts anew. Wakes nothing. */
  async keepalive({ signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "POST", path: this.path("keepalive"), safe: true, signal });
  }

  /** The events of this sandbox, until it is deleted; see `Client.events`. */
  events(options: EventOptions = {}): AsyncGenerator<Event, void> {
    return events(this.http, this.path("events"), options, true);
  }

  private async urlOf(port: number, options: CallOptions): Promise<string | undefined> {
    return (await this.ports.list(options)).find((one) => one.port === port)?.url ?? undefined;
  }

  private async ask(call: Call): Promise<Sandbox> {
    this.info = await this.http.json<Sandbox>(call);
    return this.info;
  }
}

/** Sandboxes that were made together. At the end of an `await using` block all are deleted. */
export class Boxes extends Array<Box> implements AsyncDisposable {
  // What is mapped or filtered is a plain array.
  static override get [Symbol.species](): ArrayConstructor {
    return Array;
  }

  /** Delete each, also when another cannot be; the first such error is thrown. */
  async [Symbol.asyncDispose](): Promise<void> {
    const done = await Promise.allSettled(Array.from(this, (box) => box.delete()));
    for (const one of done) if (one.status === "rejected") throw one.reason;
  }
}

/**
 * One exec's terminal on the page: its output to a screen, and keys to it, over connections that may break.
 *
 * The exec lives in the sandbox. A new connection goes on at the offset of the last byte that was shown; when that
 * is no longer kept, the screen is drawn anew as it is now. A browser's WebSocket has no way to say "slower", so a
 * connection that brings more than can be shown is closed, and taken up again once what it brought is on the screen:
 * the memory of the page is bounded, whatever the program prints.
 */

import { BayError, type Exec, NotFound, OutputGone } from "bay-sandbox";
import { Backlog, type Piece } from "./backlog";

/** So much output may wait to be shown, and so much of it may be with the screen at once. */
const BOUNDS = { waitingBytes: 4 << 20, showingBytes: 256 << 10 };
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;

export interface Screen {
  readonly rows: number;
  readonly cols: number;
  /** `done` is called once it is shown. */
  write(data: Uint8Array, done: () => void): void;
  /** Forget all: what comes next draws it anew. */
  reset(): void;
}

/** A connection to an exec, as `Attachment` of the SDK is one. */
export interface Line {
  readonly info: Exec;
  readonly exit: Exec | null;
  readonly offset: number;
  read(): Promise<{ data: Uint8Array } | null>;
  write(data: string | Uint8Array): Promise<void>;
  resize(rows: number, cols: number): Promise<void>;
  close(): void;
}

export interface Door {
  /** Begin with what redraws its screen at that size. */
  repaint(size: { rows: number; cols: number }, signal: AbortSignal): Promise<Line>;
  /** Go on at an offset. Throws OutputGone when it is no longer kept. */
  since(offset: number, signal: AbortSignal): Promise<Line>;
}

export type Link =
  | { kind: "connecting" }
  /** `again`: after a break. `skipped`: output is missing before what is shown. */
  | { kind: "live"; again: boolean; skipped: boolean }
  | { kind: "broken"; error: unknown }
  | { kind: "ended"; exec: Exec }
  | { kind: "gone" }
  | { kind: "failed"; error: unknown };

export class Session {
  private line: Line | null = null;
  private offset: number | null = null;
  private showing = 0;
  private wake = (): void => undefined;
  private readonly stopping = new AbortController();
  private broke = false;
  private skipped = false;
  private failures = 0;
  private typing: Promise<void> = Promise.resolve();

  constructor(
    private readonly door: Door,
    private readonly screen: Screen,
    private readonly tell: (link: Link) => void,
    private readonly pause: (ms: number, signal: AbortSignal) => Promise<void> = wait,
    private readonly bounds = BOUNDS,
  ) {}

  /** Show it until it ends or `stop` is called. */
  async run(): Promise<void> {
    this.tell({ kind: "connecting" });
    while (!this.stopped) {
      try {
        const exit = await this.once();
        if (exit !== null) return this.say({ kind: "ended", exec: exit });
      } catch (error) {
        if (this.stopped || !(await this.mayGoOn(error))) return;
      }
    }
  }

  /** Go on by a new connection: this one may be dead without a word. */
  renew(): void {
    this.line?.close();
  }

  /** Leave it; it runs on. */
  stop(): void {
    this.stopping.abort();
    this.line?.close();
    this.wake();
  }

  /** Type that. It is lost while there is no connection: nothing is typed late, where nobody expects it. */
  type(data: string | Uint8Array): void {
    const { line } = this;
    if (line === null) return;
    // One after the other: a key that is hit during a long paste comes behind it.
    this.typing = this.typing.then(() => line.write(data)).catch(() => undefined); // the reader hears of it too
  }

  resize(): void {
    this.line?.resize(this.screen.rows, this.screen.cols).catch(() => undefined);
  }

  private get stopped(): boolean {
    return this.stopping.signal.aborted;
  }

  private say(link: Link): void {
    if (!this.stopped) this.tell(link);
  }

  /** One connection. Gives how the exec ended; null when the connection was given up. */
  private async once(): Promise<Exec | null> {
    const line = await this.connect();
    this.line = line;
    if (this.stopped) line.close();
    try {
      this.failures = 0;
      this.say({ kind: "live", again: this.broke, skipped: this.skipped });
      await this.show(line);
      return line.exit;
    } finally {
      this.line = null;
      line.close();
    }
  }

  private async connect(): Promise<Line> {
    const { signal } = this.stopping;
    if (this.offset !== null) return this.door.since(this.offset, signal);
    const size = { rows: this.screen.rows, cols: this.screen.cols };
    const line = await this.door.repaint(size, signal);
    this.screen.reset();
    this.offset = line.offset;
    if (size.rows !== this.screen.rows || size.cols !== this.screen.cols)
      await line.resize(this.screen.rows, this.screen.cols);
    return line;
  }

  private async show(line: Line): Promise<void> {
    const backlog = new Backlog(this.bounds.waitingBytes);
    void this.receive(line, backlog);
    try {
      for (let piece = await backlog.take(); piece !== null; piece = await backlog.take()) {
        this.draw(piece);
        await this.shown(this.bounds.showingBytes);
      }
    } finally {
      await this.shown(0); // what a new connection draws comes behind all that this one brought
    }
  }

  private draw({ data, next }: Piece): void {
    this.showing += data.length;
    this.offset = next;
    this.screen.write(data, () => {
      this.showing -= data.length;
      this.wake();
    });
  }

  /** Wait until the screen has no more than so many bytes that it does not show yet. */
  private async shown(most: number): Promise<void> {
    while (this.showing > most && !this.stopped) {
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }

  private async receive(line: Line, backlog: Backlog): Promise<void> {
    try {
      for (let chunk = await line.read(); chunk !== null; chunk = await line.read()) {
        if (backlog.put({ data: chunk.data, next: line.offset })) continue;
        line.close();
        break;
      }
      backlog.end();
    } catch (error) {
      backlog.end(error);
    }
  }

  private async mayGoOn(error: unknown): Promise<boolean> {
    if (error instanceof OutputGone) {
      this.skipped = true;
      this.offset = null;
      return true;
    }
    if (error instanceof NotFound) this.say({ kind: "gone" });
    else if (!mayComeBack(error)) this.say({ kind: "failed", error });
    else {
      this.broke = true;
      this.say({ kind: "broken", error });
      await this.pause(Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.failures), this.stopping.signal);
      this.failures += 1;
      return true;
    }
    return false;
  }
}

/** A proxy answers with one of these while Bay restarts behind it. */
const PROXY_STATUSES = [502, 503, 504];

function mayComeBack(error: unknown): boolean {
  return error instanceof BayError && (error.retryable || PROXY_STATUSES.includes(error.status));
}

/** Wait, but no longer once the network is back. */
function wait(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      window.removeEventListener("online", end);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    window.addEventListener("online", end);
    signal.addEventListener("abort", end);
  });
}

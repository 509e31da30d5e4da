/** Attachments: the output of a command live, and its input, over one WebSocket. */

import { toBytes } from "./bytes.js";
import { get, sandboxPath, type Call, type CallOptions, type Query } from "./call.js";
import { BayError, Conflict, ConnectionFailed, HostError, OutputGone, Timeout } from "./errors.js";
import type { Http } from "./http.js";
import { ended, OutputChunk, OutputPlace, type Stream } from "./output.js";
import { sleep, unlessAborted } from "./retries.js";
import { frameObject, Socket, type Frame } from "./socket.js";
import type { Exec } from "./types.js";

const STDIN = 0;
const STDERR = 2;
const REPAINT = 3;
const END_OF_STDIN = 4;
/** The input in one frame. */
const INPUT_BYTES = 16 << 10;

export interface AttachOptions extends CallOptions {
  /** A byte offset; without, the start for a first reader, else the oldest byte still kept. */
  since?: number | undefined;
  /** Begin with what redraws the last screen of its terminal. */
  repaint?: boolean;
}

/** Where an attachment is asked for. Without an exec it is the terminal, which starts a login shell. */
export interface Door {
  sandboxId: string;
  execId: string | undefined;
  repaint: boolean;
  claims?: boolean;
  /** The size of a terminal that is asked for. */
  size?: { rows?: number | undefined; cols?: number | undefined } | undefined;
}

/**
 * A command that one is attached to. Leaving it leaves the command running.
 *
 * Iterate it for the output, in the order in which it came, until the command ends. A dropped connection is taken
 * up again where it broke, for as long as the client's `retryS`. Output that is no longer kept then shows as a jump
 * of `offset`; when a `since` was given it is OutputGone; after a `repaint` the screen is drawn anew. Input that was
 * on its way when a connection broke may be lost; it is never written twice.
 */
export class Attachment implements AsyncDisposable {
  private socket: Socket | null = null;
  private readonly place: OutputPlace;
  /** The offset that the connection counts on from. */
  private at = 0;
  private closed = false;
  private mending: Promise<void> | null = null;

  private constructor(
    private readonly http: Http,
    private door: Door,
    private last: Exec | null,
    private since: number | undefined,
  ) {
    this.place = new OutputPlace(since, http.config.retryS, since !== undefined && !door.repaint);
  }

  static async open(
    http: Http,
    door: Door,
    info: Exec | null,
    since?: number,
    signal?: AbortSignal,
  ): Promise<Attachment> {
    const made = new Attachment(http, door, info, since);
    await made.reconnect(null, null, signal);
    return made;
  }

  /** The last known state of the command. */
  get info(): Exec {
    if (this.last === null) throw new BayError("this attachment is not open");
    return this.last;
  }

  /** How it ended, null while it runs. */
  get exit(): Exec | null {
    return this.place.ended ? this.info : null;
  }

  /** The offset of the first byte of output not given yet; attach with it as `since` to go on. */
  get offset(): number {
    return this.place.next;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<OutputChunk, void> {
    for (let chunk = await this.read(); chunk !== null; chunk = await this.read()) yield chunk;
  }

  /** The next output, null after its end. Throws Timeout when nothing comes for `timeoutS` seconds. */
  async read(timeoutS?: number, { signal }: CallOptions = {}): Promise<OutputChunk | null> {
    while (!this.place.ended && !this.closed) {
      const chunk = await this.next(timeoutS, signal);
      if (chunk !== undefined) return chunk;
    }
    return null;
  }

  /** Give it input; waits while the way to it is full. Throws Conflict when it has ended. */
  async write(data: string | Uint8Array, { signal }: CallOptions = {}): Promise<void> {
    const whole = toBytes(data);
    for (let start = 0; start < whole.length; start += INPUT_BYTES) {
      await this.send(framed(STDIN, whole.subarray(start, start + INPUT_BYTES)), signal);
    }
  }

  /** Close its input, after what was written before. */
  async sendEof({ signal }: CallOptions = {}): Promise<void> {
    await this.send(Uint8Array.of(END_OF_STDIN), signal);
  }

  /** Say how large its terminal is now. */
  async resize(rows: number, cols: number, { signal }: CallOptions = {}): Promise<void> {
    await this.send(JSON.stringify({ type: "resize", rows, cols }), signal);
  }

  /** Send it a signal, by name (`"INT"`) or number. */
  async signal(signal: string | number, options: CallOptions = {}): Promise<void> {
    await this.send(JSON.stringify({ type: "signal", signal }), options.signal);
  }

  /** Leave. Iterations over it end. Again is no error. */
  close(): void {
    this.closed = true;
    this.socket?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  private async next(timeoutS?: number, signal?: AbortSignal): Promise<OutputChunk | undefined> {
    const socket = this.open();
    try {
      return this.accept(await socket.receive(timeoutS, signal));
    } catch (error) {
      // Of several readers one has heard of the end.
      if (this.closed || this.place.ended) return undefined;
      if ((timeoutS !== undefined && error instanceof Timeout) || !mayComeBack(error)) throw error;
      await this.mend(socket, error, signal);
      return undefined;
    }
  }

  private async send(frame: Frame, signal?: AbortSignal): Promise<void> {
    if (this.closed || this.place.ended) {
      throw new Conflict(`${this.info.id} has ended, or the attachment is closed; nothing more can be sent`);
    }
    const broken = this.open();
    if (broken.broken) {
      await this.mend(broken, new ConnectionFailed(`the connection to ${this.info.id} broke`), signal);
    }
    await this.open().send(frame, signal);
  }

  private open(): Socket {
    if (this.socket === null) throw new BayError("this attachment is not open");
    return this.socket;
  }

  /** A new connection in place of `broken`, unless another call makes or has made one. */
  private async mend(broken: Socket, error: unknown, signal: AbortSignal | undefined): Promise<void> {
    if (this.socket !== broken) return;
    this.mending ??= this.reconnect(broken, error).finally(() => (this.mending = null));
    await unlessAborted(this.mending, signal); // others may wait for it too
  }

  private async reconnect(broken: Socket | null, first: unknown, signal?: AbortSignal): Promise<void> {
    for (let error = first; this.socket === broken && !this.closed; ) {
      if (error !== null) await sleep(this.pause(error), signal);
      try {
        this.socket = await this.connect(signal);
      } catch (failed) {
        if (!mayComeBack(failed) || this.mayHaveStarted(failed)) throw failed;
        error = failed;
      }
    }
    broken?.close();
    if (this.closed) this.close();
  }

  private async connect(signal: AbortSignal | undefined): Promise<Socket> {
    const { door } = this;
    const about = aboutDoor(door, this.since);
    const opening = { sandboxId: door.sandboxId, writes: true, signal };
    const socket = await Socket.open(this.http, doorPath(door), doorQuery(door, this.since), about, opening);
    try {
      this.attached(frameObject(await socket.receive(this.http.config.timeoutS, signal)));
      return socket;
    } catch (error) {
      socket.close();
      throw error;
    }
  }

  /** The first frame of a connection. Throws OutputGone when wanted bytes before it are missing. */
  private attached(data: Record<string, unknown>): void {
    const offset = data["next_offset"];
    if (data["type"] !== "attached" || typeof offset !== "number") {
      throw new BayError("the server's first frame is not `attached`; is it a Bay of another version?");
    }
    this.last = data["exec"] as Exec;
    this.door = { ...this.door, execId: this.last.id, size: undefined };
    this.place.patience.opened();
    this.at = offset;
    if (offset > this.place.next) this.place.skip(gone(offset));
  }

  private accept(frame: Frame): OutputChunk | undefined {
    if (typeof frame === "string") return this.text(frameObject(frame));
    const data = frame.subarray(1);
    const t = new Date().toISOString();
    // A repaint is not output but what redraws it: it has no place in the count.
    if (frame[0] === REPAINT) return new OutputChunk(this.at, "tty", data, t);
    const chunk = new OutputChunk(this.at, this.stream(frame[0]), data, t);
    this.at = chunk.end;
    return this.place.take(chunk);
  }

  private text(data: Record<string, unknown>): undefined {
    if (data["type"] !== "exit") return;
    this.place.ended = true;
    this.last = ended(this.info, data, this.place.next);
  }

  private stream(marker: number | undefined): Stream {
    if (marker === STDERR) return "stderr";
    return this.info.tty ? "tty" : "stdout";
  }

  private pause(error: unknown): number {
    if (error instanceof OutputGone) {
      this.place.skip(error);
      this.since = this.door.repaint ? undefined : this.place.next;
      return 0;
    }
    if (this.last !== null && this.place.next) this.since = this.place.next;
    return this.place.patience.pause(error);
  }

  /** Whether asking again could start a second shell. */
  private mayHaveStarted(error: unknown): boolean {
    const isSure = error instanceof BayError && (error.details["sent"] === false || error.status === 503);
    return this.door.execId === undefined && !isSure;
  }
}

function mayComeBack(error: unknown): boolean {
  return error instanceof OutputGone || error instanceof HostError || error instanceof ConnectionFailed;
}

function gone(first: number): OutputGone {
  const details = { first_offset: first };
  return new OutputGone(`output before offset ${first} is no longer kept`, { details });
}

function framed(marker: number, data: Uint8Array): Uint8Array {
  const frame = new Uint8Array(data.length + 1);
  frame[0] = marker;
  frame.set(data, 1);
  return frame;
}

function isTerminal({ execId, size }: Door): boolean {
  return execId === undefined || size !== undefined;
}

function doorPath(door: Door): string {
  const { sandboxId, execId } = door;
  if (execId === undefined || isTerminal(door)) return sandboxPath(sandboxId, "terminal");
  return sandboxPath(sandboxId, "execs", execId, "attach");
}

/** A call that fails as an attachment there does. */
function aboutDoor({ sandboxId, execId }: Door, since: number | undefined): Call {
  if (execId === undefined) return get(sandboxPath(sandboxId));
  if (since === undefined) return get(sandboxPath(sandboxId, "execs", execId));
  return get(sandboxPath(sandboxId, "execs", execId, "output"), { since, follow: false });
}

function doorQuery(door: Door, since: number | undefined): Query {
  if (isTerminal(door)) return { ...door.size, exec: door.execId };
  const repaint = door.repaint && since === undefined ? true : undefined;
  return { since, repaint, wait_for_reader: door.claims ? true : undefined };
}

/**
 * A WebSocket to Bay: the platform's where there is one (Node from 22 on, Deno), else that of the library `ws`.
 *
 * The key goes as a subprotocol, since the platform's takes no headers.
 */

import { toBase64, toBytes } from "./bytes.js";
import { address, get, sandboxPath, type Call, type CallOptions, type Query } from "./call.js";
import {
  BayError, Conflict, ConnectionFailed, InvalidArgument, NotFound, OutputGone, PayloadTooLarge, QuotaExceeded, Timeout,
  Unauthorized,
} from "./errors.js";
import type { Http } from "./http.js";
import { jsonOrUndefined } from "./lines.js";
import { milliseconds, sleep } from "./retries.js";

export type Frame = string | Uint8Array;

const OPEN_S = 10;
const NORMAL = 1000;
/** Closes after which one may come back. */
const COME_BACK = [NORMAL, 1001, 1005, 1006, 1011, 1012, 1013, 4502];
const CLOSED: Record<number, typeof BayError> = {
  1009: PayloadTooLarge,
  4400: InvalidArgument,
  4403: Unauthorized,
  4404: NotFound,
  4409: Conflict,
  4410: OutputGone,
  4429: QuotaExceeded,
};
/** So much may wait to be sent before `send` waits too. */
const BUFFERED_BYTES = 1 << 20;
const LOOK_S = 0.01;
/** How long saying goodbye may take. */
const CLOSE_S = 2;

/** The error of a close by the server with `code`. */
function closeError(code: number, reason: string, url: string): BayError {
  const said = reason ? `: ${reason}` : "";
  if (COME_BACK.includes(code)) {
    const details = { url, sent: true, close_code: code };
    return new ConnectionFailed(`the connection to ${url} broke (code ${code}${said})`, { details });
  }
  const first = /\d+/.exec(reason);
  const details = { close_code: code, ...(code === 4410 && first && { first_offset: Number(first[0]) }) };
  return new (CLOSED[code] ?? BayError)(`the server closed the connection with code ${code}${said}`, { details });
}

/** Whether the server closed the socket in good order: there is nothing left to say. */
export function isEnd(error: unknown): boolean {
  return error instanceof BayError && error.details["close_code"] === NORMAL;
}

/** How a connection is made. */
export interface Opening extends CallOptions {
  /** The sandbox that it leads to. */
  sandboxId: string;
  /** Whether the key must be one that may write. */
  writes: boolean;
  /** How long the handshake may take: 10 seconds. */
  patienceS?: number;
}

/** One who waits for a frame. */
interface Waiting {
  take(frame: Frame): void;
  fail(error: unknown): void;
}

/** One connection, to send and receive frames: text as a string, binary as bytes. */
export class Socket {
  private readonly frames: Frame[] = [];
  /** In the order in which they came: each frame is one reader's. */
  private readonly waiting: Waiting[] = [];
  private failed: BayError | null = null;
  private isOver = (): void => undefined;
  private readonly over = new Promise<void>((resolve) => (this.isOver = resolve));

  private constructor(
    private readonly socket: WebSocket,
    private readonly url: string,
  ) {
    socket.addEventListener("message", (event) => this.took(event.data as string | ArrayBuffer));
    // Deno says 0 where RFC 6455 has 1006, of a connection that broke.
    socket.addEventListener("close", ({ code, reason }) => this.ended(closeError(code || 1006, reason, url)));
  }

  /**
   * Connect. Throws ConnectionFailed without a server. A WebSocket does not say why it was refused: then calls that
   * are refused for the same reason are made, the last of them `about`, and the error of the first that fails is thrown.
   */
  static async open(http: Http, path: string, query: Query, about: Call, opening: Opening): Promise<Socket> {
    const { url, apiKey } = http.config;
    const kind = await webSocket();
    opening.signal?.throwIfAborted();
    const names = apiKey === null ? [] : [`bay.bearer.${base64url(apiKey)}`];
    const made = new kind(`ws${url.slice("http".length)}${address(get(path, query))}`, [...names, "bay.v1"]);
    made.binaryType = "arraybuffer";
    const socket = new Socket(made, url);
    await socket.opened(http, about, opening);
    return socket;
  }

  /** Whether sending is known to be impossible. */
  get broken(): boolean {
    return this.socket.readyState !== 1;
  }

  /** The next frame that no one else has waited for. Throws why the server hung up, Timeout after `timeoutS`. */
  async receive(timeoutS?: number, signal?: AbortSignal): Promise<Frame> {
    signal?.throwIfAborted();
    const frame = this.frames.shift();
    if (frame !== undefined) return frame;
    if (this.failed) throw this.failed;
    return this.next(timeoutS, signal);
  }

  /** Send a frame; waits while the other side takes nothing. */
  async send(frame: Frame, signal?: AbortSignal): Promise<void> {
    while (!this.broken && this.socket.bufferedAmount > BUFFERED_BYTES) await sleep(LOOK_S, signal);
    signal?.throwIfAborted();
    if (this.broken) throw await this.why(signal);
    this.socket.send(frame as string | Uint8Array<ArrayBuffer>);
  }

  /** Hang up. Again is no error. */
  close(): void {
    this.ended(closeError(NORMAL, "", this.url));
    this.socket.close(NORMAL);
  }

  private async opened(http: Http, about: Call, opening: Opening): Promise<void> {
    const { patienceS = OPEN_S, signal } = opening;
    const done = new Promise<boolean>((resolve) => {
      this.socket.addEventListener("open", () => resolve(true));
      this.socket.addEventListener("error", () => resolve(false));
      this.socket.addEventListener("close", () => resolve(false));
    });
    try {
      if (await within(done, Math.min(http.config.timeoutS, patienceS), signal)) return;
      await checkPlace(http, opening);
      (await http.opened({ ...about, signal })).close();
      throw closeError(1006, "", this.url);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Why it is broken, which the other side may have said without it being heard yet. */
  private async why(signal: AbortSignal | undefined): Promise<BayError> {
    await within(this.over, CLOSE_S, signal);
    return this.failed ?? closeError(1006, "", this.url);
  }

  private took(data: string | ArrayBuffer): void {
    const frame = typeof data === "string" ? data : new Uint8Array(data);
    const first = this.waiting.shift();
    if (first) first.take(frame);
    else this.frames.push(frame);
  }

  private ended(error: BayError): void {
    this.failed ??= error;
    this.isOver();
    for (const one of this.waiting.splice(0)) one.fail(this.failed);
  }

  private async next(timeoutS: number | undefined, signal: AbortSignal | undefined): Promise<Frame> {
    let leave = (_: unknown): void => undefined;
    const frame = new Promise<Frame>((take, fail) => {
      const own = { take, fail };
      leave = (error) => {
        const at = this.waiting.indexOf(own);
        if (at < 0) return;
        this.waiting.splice(at, 1);
        fail(error);
      };
      this.waiting.push(own);
    });
    const aborted = (): void => leave(signal?.reason);
    const late = (): void => leave(new Timeout(`${this.url} has sent nothing for ${timeoutS} s`));
    const timer = timeoutS === undefined ? undefined : setTimeout(late, milliseconds(timeoutS));
    signal?.addEventListener("abort", aborted, { once: true });
    try {
      return await frame;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
    }
  }
}

/**
 * Throws what refuses every connection to the sandbox: the scope of the key, or too many connections of its owner.
 *
 * The calls are about an exec that there is not: Bay looks for it last, and the call does nothing.
 */
async function checkPlace(http: Http, { sandboxId, writes, signal }: Opening): Promise<void> {
  const path = sandboxPath(sandboxId, "execs", "exec-none", writes ? "stdin" : "output");
  const call: Call = writes ? { method: "POST", path, safe: true } : get(path, { follow: true });
  try {
    (await http.opened({ ...call, signal })).close();
  } catch (error) {
    if (!(error instanceof NotFound)) throw error;
  }
}

/** What `work` gives; undefined when it takes longer than so many seconds. Throws the reason of the signal. */
export async function within<T>(work: Promise<T>, seconds: number, signal?: AbortSignal): Promise<T | undefined> {
  const stop = new AbortController();
  const over = sleep(seconds, signal ? AbortSignal.any([signal, stop.signal]) : stop.signal);
  over.catch(() => undefined); // it is stopped below
  try {
    return await Promise.race([work, over.then(() => undefined)]);
  } finally {
    stop.abort();
  }
}

/** A text frame's object. Throws for what is none. */
export function frameObject(frame: Frame): Record<string, unknown> {
  const found = typeof frame === "string" ? jsonOrUndefined(frame) : undefined;
  if (typeof found === "object" && found !== null) return found as Record<string, unknown>;
  throw new BayError("the server sent a frame that is no JSON object; is it a Bay of another version?");
}

async function webSocket(): Promise<typeof WebSocket> {
  const own = (globalThis as { WebSocket?: typeof WebSocket }).WebSocket;
  if (own) return own;
  const library = "ws"; // by a name, so that no bundler looks for what may not be there
  try {
    return ((await import(library)) as { WebSocket: typeof WebSocket }).WebSocket;
  } catch (cause) {
    throw new BayError("this platform has no WebSocket: install the package `ws`, or use Node 22", { cause });
  }
}

function base64url(text: string): string {
  return toBase64(toBytes(text)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** A tunnel: a TCP connection to a port of a sandbox, through Bay. */

import { toBytes } from "./bytes.js";
import { get, sandboxPath, SLICE_S, type Call, type CallOptions } from "./call.js";
import { BayError, Conflict, ConnectionFailed, PortClosed } from "./errors.js";
import type { Http } from "./http.js";
import { checkedPort } from "./ports.js";
import { frameObject, isEnd, Socket } from "./socket.js";
import type { Port } from "./types.js";

const EOF = JSON.stringify({ type: "eof" });
/** The bytes of one frame. */
const FRAME_BYTES = 16 << 10;
const UNREACHABLE = 4502;

/**
 * A connection to whatever listens on a port of the sandbox.
 *
 * Bytes go as they are, and each direction ends by itself, as with TCP. `readable` and `writable` are the same as a
 * duplex stream. A broken tunnel does not reconnect: it is unknown which bytes had arrived. At the end of an
 * `await using` block it is closed, and unread bytes are dropped. Bytes that were not read wait in memory, since a
 * platform's `WebSocket` cannot be told to wait.
 */
export class Tunnel implements AsyncDisposable {
  /** What the program there sends, until it ends its direction. Cancelling it closes the tunnel. */
  readonly readable: ReadableStream<Uint8Array>;
  /** What the program there gets. Closing it ends this direction, aborting it closes the tunnel. */
  readonly writable: WritableStream<Uint8Array>;
  private ended = false;

  private constructor(
    readonly port: number,
    private readonly socket: Socket,
  ) {
    // The stream holds nothing back. What comes before it is asked for waits in the socket, in memory and without a
    // bound: a platform's WebSocket cannot be told to wait.
    const none = { highWaterMark: 0 };
    this.readable = new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          const data = await this.receive();
          if (data.length) controller.enqueue(data);
          else controller.close();
        },
        cancel: () => this.close(),
      },
      none,
    );
    this.writable = new WritableStream<Uint8Array>({
      write: (data) => this.send(data),
      close: () => this.sendEof(),
      abort: () => this.close(),
    });
  }

  /** Connect, and wake the sandbox for it. Throws PortClosed when nothing listens there. */
  static async open(http: Http, sandboxId: string, port: number, { signal }: CallOptions = {}): Promise<Tunnel> {
    const path = sandboxPath(sandboxId, "tunnel");
    const query = { port: checkedPort(port) };
    // It starts the sandbox as the tunnel does, and fails as that would.
    const start: Call = { method: "POST", path: sandboxPath(sandboxId, "start"), query: { wait: SLICE_S }, safe: true };
    const about = { ...start, waitS: SLICE_S };
    // As long as any other answer: the sandbox may have to be started.
    const opening = { sandboxId, writes: true, patienceS: http.config.timeoutS, signal };
    // Nothing was sent over it yet, so that it may be tried again.
    return http.tried({ ...about, signal }, async () => {
      try {
        return new Tunnel(port, await Socket.open(http, path, query, about, opening));
      } catch (error) {
        if (isRefused(error)) await checkListens(http, sandboxId, port, signal);
        throw error;
      }
    });
  }

  /**
   * The next bytes, as they come; empty once the program there has ended its direction. Throws PortClosed or
   * ConnectionFailed when the connection broke; the bytes received until then may not be all.
   */
  async receive({ signal }: CallOptions = {}): Promise<Uint8Array> {
    while (!this.ended) {
      try {
        const frame = await this.socket.receive(undefined, signal);
        if (typeof frame === "string") this.ended = frameObject(frame)["type"] === "eof";
        else if (frame.length) return frame;
      } catch (error) {
        if (!isEnd(error)) throw this.meaning(error);
        this.ended = true;
      }
    }
    return new Uint8Array();
  }

  /** The bytes from now on, until the program there has ended its direction. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    for (let data = await this.receive(); data.length; data = await this.receive()) yield data;
  }

  /**
   * Send bytes, or text as UTF-8; waits while the other side takes nothing. Throws Conflict when it has closed the
   * connection, ConnectionFailed when the connection broke; some of `data` may have arrived.
   */
  async send(data: string | Uint8Array, { signal }: CallOptions = {}): Promise<void> {
    const whole = toBytes(data);
    for (let start = 0; start < whole.length; start += FRAME_BYTES) {
      await this.give(whole.subarray(start, start + FRAME_BYTES), signal);
    }
  }

  /** End this direction; the other can still be received. No error once the connection was closed. */
  async sendEof({ signal }: CallOptions = {}): Promise<void> {
    try {
      await this.give(EOF, signal);
    } catch (error) {
      if (!(error instanceof Conflict)) throw error;
    }
  }

  /** Close the connection. Again is no error. */
  close(): void {
    this.socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  private async give(frame: string | Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    try {
      await this.socket.send(frame, signal);
    } catch (error) {
      throw this.meaning(error);
    }
  }

  /** The error that the socket's end means here. */
  private meaning(error: unknown): unknown {
    if (!(error instanceof BayError)) return error;
    const { details, message } = error;
    if (isEnd(error)) {
      return new Conflict(`the program behind port ${this.port} closed the connection; nothing more can be sent`);
    }
    if (details["close_code"] === UNREACHABLE && message.includes("port_closed")) {
      return new PortClosed(`nothing listens on port ${this.port} of the sandbox any more`, { details });
    }
    if (!(error instanceof ConnectionFailed)) return error;
    return new ConnectionFailed(`the tunnel to port ${this.port} broke: ${message}`, { details });
  }
}

function isRefused(error: unknown): boolean {
  return error instanceof ConnectionFailed && error.details["close_code"] !== undefined;
}

/** A WebSocket does not say why it was refused; the list of ports does. */
async function checkListens(http: Http, sandboxId: string, port: number, signal?: AbortSignal): Promise<void> {
  const ports = await http.all<Port>({ ...get(sandboxPath(sandboxId, "ports")), signal });
  const listening = ports.map((one) => one.port);
  if (listening.includes(port)) return;
  throw new PortClosed(`nothing listens on port ${port} of the sandbox`, { details: { listening } });
}

/** A watch reports changes of files live. */

import type { Call, CallOptions, Query } from "./call.js";
import { BayError, ConnectionFailed, HostError } from "./errors.js";
import type { Http } from "./http.js";
import { Patience, sleep, unlessAborted } from "./retries.js";
import { frameObject, isEnd, Socket } from "./socket.js";
import type { FileEvent } from "./types.js";

/** The watch that is asked for, and a call that says why it cannot be. */
export interface Watched extends CallOptions {
  sandboxId: string;
  path: string;
  query: Query;
  about: Call;
}

/**
 * A directory or a file that is watched; iterate it for the events.
 *
 * Changes after it was opened are reported, until the watched path is removed. Leaving the loop closes it. An event of type `overflow` says
 * that others were lost: look again. It also comes after a reconnect, for which the client's `retryS` is the limit.
 */
export class Watch implements AsyncDisposable {
  private readonly patience: Patience;
  private closed = false;
  private mending: Promise<FileEvent | null> | null = null;
  private readonly aborted = (): void => this.close();

  private constructor(
    private readonly http: Http,
    private readonly watched: Watched,
    private socket: Socket,
  ) {
    this.patience = new Patience(http.config.retryS);
    watched.signal?.addEventListener("abort", this.aborted); // also one that has no reader is closed then
  }

  static async open(http: Http, watched: Watched): Promise<Watch> {
    return new Watch(http, watched, await connected(http, watched));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<FileEvent, void> {
    try {
      while (!this.closed) {
        const event = await this.next();
        if (event) yield event;
      }
      this.watched.signal?.throwIfAborted();
    } finally {
      this.close();
    }
  }

  /** Stop watching. Iterations over it end. Again is no error. */
  close(): void {
    this.closed = true;
    this.watched.signal?.removeEventListener("abort", this.aborted);
    this.socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  private async next(): Promise<FileEvent | null> {
    const { socket } = this;
    const { signal } = this.watched;
    try {
      const found = frameObject(await socket.receive(undefined, signal)) as unknown as FileEvent;
      this.patience.renew();
      return found;
    } catch (error) {
      this.closed ||= isEnd(error);
      if (this.closed || this.socket !== socket) return null;
      this.mending ??= this.again(error).finally(() => (this.mending = null));
      return unlessAborted(this.mending, signal);
    }
  }

  /** A new connection in place of one that broke. Changes meanwhile are unknown. */
  private async again(first: unknown): Promise<FileEvent | null> {
    for (let error = first; !this.closed; ) {
      if (!(error instanceof HostError || error instanceof ConnectionFailed)) throw error;
      await sleep(this.patience.pause(error), this.watched.signal);
      try {
        this.socket = await connected(this.http, this.watched);
        this.patience.opened();
        // It may have been closed meanwhile.
        if (this.closed) this.close();
        else return { type: "overflow" };
      } catch (failed) {
        error = failed;
      }
    }
    return null;
  }
}

async function connected(http: Http, { sandboxId, path, query, about, signal }: Watched): Promise<Socket> {
  const socket = await Socket.open(http, path, query, about, { sandboxId, writes: false, signal });
  try {
    if (frameObject(await socket.receive(http.config.timeoutS, signal))["type"] === "watching") return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
  socket.close();
  throw new BayError("the server's first frame is not `watching`; is it a Bay of another version?");
}

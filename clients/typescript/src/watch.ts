/** A watch reports changes of files live. */

import type { Call, Query } from "./call.js";
import { BayError, ConnectionFailed, HostError } from "./errors.js";
import type { Http } from "./http.js";
import { Patience, sleep } from "./retries.js";
import { frameObject, isEnd, Socket } from "./socket.js";
import type { FileEvent } from "./types.js";

/** The watch that is asked for, and a call that says why it cannot be. */
export interface Watched {
  path: string;
  query: Query;
  about: Call;
}

/**
 * A directory or a file that is watched; iterate it for the events.
 *
 * Changes after it was opened are reported, until the watched path is removed. An event of type `overflow` says
 * that others were lost: look again. It also comes after a reconnect, for which the client's `retryS` is the limit.
 */
export class Watch implements AsyncDisposable {
  private readonly patience: Patience;
  private closed = false;

  private constructor(
    private readonly http: Http,
    private readonly watched: Watched,
    private socket: Socket,
  ) {
    this.patience = new Patience(http.config.retryS);
  }

  static async open(http: Http, watched: Watched): Promise<Watch> {
    return new Watch(http, watched, await connected(http, watched));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<FileEvent, void> {
    while (!this.closed) {
      const event = await this.next();
      if (event) yield event;
    }
  }

  /** Stop watching. Iterations over it end. Again is no error. */
  close(): void {
    this.closed = true;
    this.socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  private async next(): Promise<FileEvent | null> {
    try {
      const found = frameObject(await this.socket.receive()) as unknown as FileEvent;
      this.patience.renew();
      return found;
    } catch (error) {
      this.closed ||= isEnd(error);
      return this.closed ? null : this.again(error);
    }
  }

  /** A new connection in place of one that broke. Changes meanwhile are unknown. */
  private async again(first: unknown): Promise<FileEvent> {
    for (let error = first; ; ) {
      if (!(error instanceof HostError || error instanceof ConnectionFailed)) throw error;
      await sleep(this.patience.pause(error));
      try {
        this.socket = await connected(this.http, this.watched);
        this.patience.opened();
        return { type: "overflow" };
      } catch (failed) {
        error = failed;
      }
    }
  }
}

async function connected(http: Http, { path, query, about }: Watched): Promise<Socket> {
  const socket = await Socket.open(http, path, query, about);
  try {
    if (frameObject(await socket.receive(http.config.timeoutS))["type"] === "watching") return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
  socket.close();
  throw new BayError("the server's first frame is not `watching`; is it a Bay of another version?");
}

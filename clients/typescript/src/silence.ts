/** Gives a request up when the server says and takes nothing for too long. */

import { Timeout } from "./errors.js";
import { milliseconds, now } from "./retries.js";

export class Silence {
  /** Ends the request: when it was silent for too long, or the caller's own signal says so. */
  readonly signal: AbortSignal;
  private readonly own = new AbortController();
  private last = now();
  private paused = false;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly url: string,
    private readonly seconds: number,
    outer?: AbortSignal,
  ) {
    this.signal = outer ? AbortSignal.any([outer, this.own.signal]) : this.own.signal;
    this.look();
  }

  /** The time until `resume` is the caller's own: nothing is asked of the server. */
  pause(): void {
    this.paused = true;
  }

  /** From now on the server is waited for. */
  resume(): void {
    this.paused = false;
    this.last = now();
  }

  /** Nobody waits for the request any more, whatever is left of it. */
  leave(why: unknown): void {
    this.end();
    this.own.abort(why);
  }

  /** The request is over. */
  end(): void {
    clearTimeout(this.timer);
  }

  // One timer that looks at the clock, since a timer of each chunk would cost more than the chunk.
  private look(): void {
    const left = this.paused ? this.seconds : this.last + this.seconds - now();
    if (left > 0) this.timer = setTimeout(() => this.look(), milliseconds(left));
    else this.own.abort(new Timeout(this.words()));
  }

  private words(): string {
    const doubt = "the call may or may not have taken effect";
    return `${this.url} did not answer in time; ${doubt}. Raise timeoutS if it needs longer`;
  }
}

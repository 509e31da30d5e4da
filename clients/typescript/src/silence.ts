/** Gives a request up when nothing moves for too long. */

import { Timeout } from "./errors.js";
import { now } from "./retries.js";

export class Silence {
  /** Ends the request: when it was silent for too long, or the caller's own signal says so. */
  readonly signal: AbortSignal;
  private readonly own = new AbortController();
  private last = now();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly url: string,
    private readonly seconds: number,
    outer?: AbortSignal,
  ) {
    this.signal = outer ? AbortSignal.any([outer, this.own.signal]) : this.own.signal;
    this.look();
  }

  /** Something moved. */
  touch(): void {
    this.last = now();
  }

  /** The request is over. */
  end(): void {
    clearTimeout(this.timer);
  }

  // One timer that looks at the clock, since a timer of each chunk would cost more than the chunk.
  private look(): void {
    const left = this.last + this.seconds - now();
    if (left > 0) this.timer = setTimeout(() => this.look(), Math.ceil(left * 1000));
    else this.own.abort(new Timeout(this.words()));
  }

  private words(): string {
    const doubt = "the call may or may not have taken effect";
    return `${this.url} did not answer in time; ${doubt}. Raise timeoutS if it needs longer`;
  }
}

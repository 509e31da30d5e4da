/** Decides when a call is tried again, and when a stream is connected to again. */

import type { Call } from "./call.js";
import { isRepeatable } from "./bytes.js";
import { BayError, ConnectionFailed, SandboxNotReady } from "./errors.js";

/** How often a server that cannot be reached is tried again. */
const QUICK_ATTEMPTS = 2;
const FIRST_S = 0.1;
const LONGEST_S = 2;
/** So that `Retry-After: 0` is not a busy loop. */
const SHORTEST_S = 0.05;
/** A connection that lasted so long was good, even without output. */
const STEADY_S = 5;
/** How many attempts that lasted and broke have the time for others begin again; no call goes on for ever. */
const LASTING_ATTEMPTS = 3;

/** Seconds on a clock that only goes forward. */
export function now(): number {
  return performance.now() / 1000;
}

/** What a timer takes: a longer time than it can count would end at once. */
export function milliseconds(seconds: number): number {
  return Math.min(Math.ceil(seconds * 1000), 0x7fff_ffff);
}

/** Returns after so many seconds; throws the reason of the signal when that comes first. */
export async function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds(seconds));
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** What `work` gives; throws the reason of the signal when that comes first. The work itself goes on. */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  work.catch(() => undefined); // its failure may come when no one waits for it any more
  signal.throwIfAborted();
  let stop = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** How long giving something back may take when the caller is already leaving. */
const CLEANUP_S = 10;

/** Gives something back for a caller who is leaving, and whose own error is told, not what becomes of this. */
export async function cleanUp(work: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
  const signal = AbortSignal.timeout(milliseconds(CLEANUP_S));
  try {
    await work(signal);
  } catch (error) {
    if (!(error instanceof BayError) && !signal.aborted) throw error;
  }
}

/** The pause after so many failures in a row: none at first, then growing. */
function backoff(failures: number): number {
  return failures ? Math.min(FIRST_S * 2 ** (failures - 1), LONGEST_S) : 0;
}

/**
 * How long one call pauses before its next attempt.
 *
 * A call that is not safe to send twice is repeated only when the server cannot have acted on it: nothing was
 * sent, or the sandbox was not ready to take it. A server that never answered is given up quickly; one whose
 * connection broke in the middle is given `retryS` to come back. That time begins with the call, and again when a
 * connection breaks that had lasted: a server may wait for compute, and die.
 */
export class Attempts {
  private began = now();
  private deadline: number;
  private renewals = LASTING_ATTEMPTS;
  private count = 0;
  private broke = false;

  constructor(
    private readonly call: Call,
    private readonly retryS: number,
  ) {
    this.deadline = this.began + retryS;
  }

  /** The pause in seconds; throws `error` to give up. */
  pause(error: unknown): number {
    if (!(error instanceof BayError)) throw error;
    const at = now();
    const delay = this.delay(error);
    this.renew(error, at);
    const readOnce = this.call.content !== undefined && !isRepeatable(this.call.content);
    if (delay === null || readOnce || at + delay >= this.deadline) throw error;
    this.count += 1;
    this.began = at + delay;
    return delay;
  }

  private renew(error: BayError, at: number): void {
    const lasted = at - this.began >= Math.min(STEADY_S, this.retryS);
    if (!wasSent(error) || !lasted || !this.renewals) return;
    this.renewals -= 1;
    this.deadline = at + this.retryS;
  }

  private delay(error: BayError): number | null {
    if (error instanceof ConnectionFailed) return this.connectionDelay(wasSent(error));
    const mayRepeat = this.call.safe || error instanceof SandboxNotReady;
    return error.status === 503 && mayRepeat ? serverDelay(error.details["retry_after_ms"]) : null;
  }

  private connectionDelay(sent: boolean): number | null {
    this.broke ||= sent;
    const isLost = this.count >= QUICK_ATTEMPTS && !this.broke;
    return (sent && !this.call.safe) || isLost ? null : backoff(this.count);
  }
}

/** Whether it is a connection's that took the call and broke. */
function wasSent(error: BayError): boolean {
  return error instanceof ConnectionFailed && error.details["sent"] !== false;
}

function serverDelay(retryAfterMs: unknown): number | null {
  return typeof retryAfterMs === "number" ? Math.max(SHORTEST_S, retryAfterMs / 1000) : null;
}

/** How often in a row a stream's connection failed, and for how long that is borne. */
export class Patience {
  private failures = 0;
  private failingSince: number | null = null;
  private openedAt: number | null = null;

  constructor(private readonly retryS: number) {}

  /** Something came: all is well again. */
  renew(): void {
    this.failures = 0;
    this.failingSince = null;
  }

  /** A connection stands. That alone is no proof that it is of use. */
  opened(): void {
    this.openedAt = now();
  }

  /** The pause before a reconnect; throws `error` after too long a failure, or when none can help. */
  pause(error: unknown): number {
    if (!(error instanceof BayError) || !error.retryable) throw error;
    const at = now();
    if (this.openedAt !== null && at - this.openedAt >= STEADY_S) this.renew();
    this.openedAt = null;
    this.failingSince ??= at;
    const pause = backoff(this.failures);
    this.failures += 1;
    if (at + pause - this.failingSince > this.retryS) throw error;
    return pause;
  }
}

/** How long may be read, or if `renewed` by all that comes, how long nothing may come. Undefined: for ever. */
export class Limit {
  private until: number | null = null;

  constructor(
    private readonly limitS: number | undefined,
    private readonly error: () => BayError,
    private readonly renewed = false,
  ) {
    this.start();
  }

  /** Something came. Throws when it came too late. */
  came(): void {
    if (this.renewed) this.start();
    else this.leftS();
  }

  /** How much longer, in seconds. Throws when the time is over. */
  leftS(): number | undefined {
    if (this.until === null) return undefined;
    const left = this.until - now();
    if (left <= 0.001) throw this.error();
    return left;
  }

  /** So much of the time was the reader's own, and does not count. */
  extend(seconds: number): void {
    if (this.until !== null) this.until += seconds;
  }

  private start(): void {
    this.until = this.limitS === undefined ? null : now() + this.limitS;
  }
}

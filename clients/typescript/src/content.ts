/** A download's progress, decided without I/O: the next request's range, and whether its answer fits. */

import type { Call } from "./call.js";
import { BayError, Conflict, ConnectionFailed, HostError, RangeNotSatisfiable } from "./errors.js";
import { Attempts, Patience } from "./retries.js";

const RANGE = /^bytes (\d{1,16})-\d{1,16}\/(\d{1,16})$/;

/**
 * The bytes of a file from `start` on, over as many requests as it takes.
 *
 * After a break it goes on at the next byte, if the file is still what it was (`etag`; RFC 9110, If-Range). If it
 * is not, it is Conflict, for the bytes that came were of another file.
 */
export class Fetch {
  ended: boolean;
  private next: number;
  private size: number | undefined;
  private etag: string | null = null;
  private began = false;
  private skip = 0;
  private readonly attempts: Attempts;
  private readonly patience: Patience;

  constructor(
    private readonly asked: Call,
    private readonly name: string,
    retryS: number,
    private readonly start = 0,
    private readonly length?: number,
  ) {
    this.next = start;
    this.ended = length === 0;
    this.attempts = new Attempts(asked, retryS);
    this.patience = new Patience(retryS);
  }

  /** The next request. */
  call(): Call {
    if (this.next === 0 && this.length === undefined) return this.asked;
    const last = this.length === undefined ? "" : this.start + this.length - 1;
    const range = { Range: `bytes=${this.next}-${last}` };
    return { ...this.asked, headers: this.etag === null ? range : { ...range, "If-Range": this.etag } };
  }

  /** An answer came. Throws Conflict when it is of another file than what came before. */
  begin(response: Response): void {
    const etag = response.headers.get("etag");
    if (this.began && etag !== this.etag && this.next > this.start) throw changed(this.name);
    const [first, size] = placeOf(response);
    if (first > this.next) throw new BayError(`the server sent byte ${first} instead of byte ${this.next}`);
    this.skip = this.next - first;
    this.size = size;
    this.etag = etag;
    this.began = true;
  }

  /** The part of `data` that is new and wanted. */
  take(data: Uint8Array): Uint8Array {
    const skipped = Math.min(this.skip, data.length);
    this.skip -= skipped;
    const left = this.end === undefined ? Infinity : Math.max(0, this.end - this.next);
    const piece = data.subarray(skipped, skipped + Math.min(left, data.length));
    this.next += piece.length;
    if (piece.length) this.patience.renew();
    return piece;
  }

  /** An answer came to its end. Throws when there should have been more of it. */
  finish(): void {
    if (this.end !== undefined && this.next < this.end) throw new ConnectionFailed("the file ended early; try again");
    this.ended = true;
  }

  /** How long to wait before asking again; throws `error` when that cannot help. */
  pause(error: unknown): number {
    if (!this.began && error instanceof RangeNotSatisfiable) {
      this.ended = true; // as with any file: behind its end there is nothing
      return 0;
    }
    if (!this.began) return this.attempts.pause(error);
    const mayGoOn = error instanceof ConnectionFailed || error instanceof HostError;
    if (this.etag === null || !mayGoOn) throw error;
    return this.patience.pause(error);
  }

  private get end(): number | undefined {
    if (this.size === undefined || this.length === undefined) return this.size;
    return Math.min(this.size, this.start + this.length);
  }
}

/** The offset of the first byte of an answer, and the size of the whole file where that is said. */
function placeOf(response: Response): [number, number | undefined] {
  if (response.status !== 206) {
    const length = response.headers.get("content-length");
    return [0, length === null ? undefined : Number(length)];
  }
  const found = RANGE.exec(response.headers.get("content-range") ?? "");
  if (!found) throw new BayError("the server did not name the part of the file that it sent");
  return [Number(found[1]), Number(found[2])];
}

function changed(name: string): Conflict {
  const fact = "was changed during the read, and the data is of its former contents";
  return new Conflict(`${name} ${fact}; read it again`);
}

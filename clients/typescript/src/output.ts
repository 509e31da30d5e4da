/** The position of a reader of output, decided without I/O, so that a reconnect loses and doubles nothing. */

import { fromBase64, toText } from "./bytes.js";
import type { Call } from "./call.js";
import { BayError, OutputGone } from "./errors.js";
import type { Followed } from "./http.js";
import { lineObject } from "./lines.js";
import type { Json } from "./names.js";
import { Limit, Patience } from "./retries.js";
import type { Exec } from "./types.js";

export type Stream = "stdout" | "stderr" | "tty";

/** A piece of output: bytes of one stream, and their offset in the output of both. */
export class OutputChunk {
  constructor(
    /** Of its first byte, from the start of the output. */
    readonly offset: number,
    readonly stream: Stream,
    readonly data: Uint8Array,
    /** When it came, RFC 3339. */
    readonly t: string,
  ) {}

  /** `data` as UTF-8; a character may be cut between two chunks. */
  get text(): string {
    return toText(this.data);
  }

  /** The offset of the byte behind it. */
  get end(): number {
    return this.offset + this.data.length;
  }

  /** Its first `size` bytes, and the rest; either may be empty. */
  split(size: number): [OutputChunk, OutputChunk] {
    const at = Math.min(size, this.data.length);
    return [
      new OutputChunk(this.offset, this.stream, this.data.subarray(0, at), this.t),
      new OutputChunk(this.offset + at, this.stream, this.data.subarray(at), this.t),
    ];
  }
}

interface WireChunk {
  offset: number;
  stream: string;
  data: string;
  t: string;
}

/** The chunk that the wire has in base64. */
export function chunkFromWire({ offset, stream, data, t }: WireChunk): OutputChunk {
  try {
    return new OutputChunk(offset, stream as Stream, fromBase64(data), t);
  } catch (cause) {
    throw new BayError("the server sent output that is no base64; is it a Bay of another version?", { cause });
  }
}

/**
 * A position in the output of a command.
 *
 * `since` undefined means "from the oldest byte still kept": a gap is skipped, and the offsets of the chunks show
 * it. A number means exactly there: a gap is OutputGone.
 */
export class OutputPlace {
  next: number;
  ended = false;
  readonly patience: Patience;

  constructor(
    since: number | undefined,
    retryS: number,
    private readonly exact = since !== undefined,
  ) {
    this.next = since ?? 0;
    this.patience = new Patience(retryS);
  }

  /** The new part of `chunk`, if any. */
  take(chunk: OutputChunk): OutputChunk | undefined {
    const [, unseen] = chunk.split(Math.max(0, this.next - chunk.offset));
    this.patience.renew();
    this.next = Math.max(this.next, unseen.end);
    return unseen.data.length ? unseen : undefined;
  }

  /** Go on at the oldest byte still kept; throws `gone` when the reader wanted every byte. */
  skip(gone: OutputGone): void {
    const first = gone.details["first_offset"];
    if (this.exact || typeof first !== "number" || first <= this.next) throw gone;
    this.next = first;
  }
}

export interface LinedOptions {
  since?: number | undefined;
  follow?: boolean | undefined;
  limit?: Limit;
}

/** A position in output that comes line by line, from what `callFrom` asks for at an offset. */
export class Lined extends OutputPlace implements Followed<OutputChunk> {
  readonly early: string;
  /** How it ended, once it has. */
  end: Json | null = null;
  private readonly follow: boolean;
  private readonly limit: Limit | undefined;

  constructor(
    what: string,
    retryS: number,
    private readonly callFrom: (since: number) => Call,
    { since, follow, limit }: LinedOptions = {},
  ) {
    super(since, retryS);
    this.early = `the output of ${what} ended before its end`;
    this.follow = follow ?? true;
    this.limit = limit;
  }

  call(): Call {
    return this.callFrom(this.next);
  }

  silenceS(): number | undefined {
    return this.limit?.leftS();
  }

  away(seconds: number): void {
    this.limit?.extend(seconds);
  }

  opened(): void {
    this.patience.opened();
  }

  accept(line: string): OutputChunk | undefined {
    this.limit?.came();
    const data = lineObject(line);
    if ("data" in data) return this.take(chunkFromWire(data as unknown as WireChunk));
    this.ended = true;
    this.end = data;
    return undefined;
  }

  closed(): void {
    this.ended ||= !this.follow;
  }

  pause(error: unknown): number {
    if (!(error instanceof OutputGone)) return this.patience.pause(error);
    this.skip(error);
    return 0;
  }
}

/** `info` after the end that `data` tells of. */
export function ended(info: Exec, data: Json | null, outputBytes: number): Exec {
  if (data === null) return info;
  return {
    ...info,
    state: (data["state"] as Exec["state"] | undefined) ?? "exited",
    exit_code: (data["exit_code"] as number | null | undefined) ?? null,
    signal: (data["signal"] as number | null | undefined) ?? null,
    timed_out: data["timed_out"] === true,
    output_bytes: Math.max(info.output_bytes, outputBytes),
  };
}

/** The result of a kernel's cell, built from its events as a notebook would show it. */

import { fromBase64, toBytes } from "./bytes.js";
import { BayError } from "./errors.js";
import type { Bundle, CellEvent } from "./types.js";

const TRUNCATED = "output beyond the server's limit is missing: have the code write it to a file";
/** Colours and the like, ECMA-48 control sequences. */
// eslint-disable-next-line no-control-regex
const ANSI = /\x1b\[[0-9;?]*[ -/]*[@-~]/g;
const SVG = "image/svg+xml";
const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp", SVG];

/** An image that a cell showed. */
export interface Image {
  readonly mediaType: string;
  readonly data: Uint8Array;
}

/** Something that stands in the output: text of a stream, or a bundle. */
interface Piece {
  stream: "stdout" | "stderr" | null;
  parts: string[];
  data: Bundle;
  displayId: string | null;
  isResult: boolean;
}

/** The output of code in a kernel: text, displays and its result. An exception or a timeout is no error here. */
export class CellResult {
  constructor(
    readonly cellId: string,
    private readonly shown: Shown,
  ) {}

  /** How it ended: `ok`, `error`, `timeout`, `interrupted`, or `lost` with its kernel. */
  get status(): NonNullable<CellEvent["status"]> {
    return this.shown.end?.status ?? "lost";
  }

  /** All of it in order as plain text: both streams, and displays and results as far as they are text. */
  get text(): string {
    return textOf(this.shown.pieces);
  }

  get stdout(): string {
    return this.shown.stream("stdout");
  }

  get stderr(): string {
    return this.shown.stream("stderr");
  }

  /** The values of expressions. */
  get results(): Bundle[] {
    return this.bundles((piece) => piece.isResult);
  }

  /** What was displayed, such as figures and tables. */
  get displays(): Bundle[] {
    return this.bundles((piece) => !piece.isResult);
  }

  /** The images of both. */
  get images(): Image[] {
    return this.bundles(() => true).flatMap((bundle) => imageIn(bundle) ?? []);
  }

  /** The exception's event, if there was one. */
  get error(): CellEvent | null {
    return this.shown.error;
  }

  /** The exception's traceback as plain text, empty without one. */
  get traceback(): string {
    return tracebackOf(this.shown.error);
  }

  /** Why it did not come to its end, in words or as a traceback; null when it did. */
  get message(): string | null {
    return why(this.shown);
  }

  get executionCount(): number | null {
    return this.shown.executionCount;
  }

  /** Whether the kernel is a new one now, without the variables. */
  get restarted(): boolean {
    return this.shown.end?.restarted === true;
  }

  get truncated(): boolean {
    return this.shown.end?.truncated === true;
  }

  get durationS(): number {
    return (this.shown.end?.duration_ms ?? 0) / 1000;
  }

  /** Whether it came to its end without an exception, and none of what it printed is missing. */
  get ok(): boolean {
    return this.status === "ok" && !this.truncated;
  }

  /** How it ended, in words. */
  get outcome(): string {
    if (this.status === "ok" && this.truncated) return TRUNCATED;
    return `the code ended with ${this.status}: ${(this.message ?? "").trim().split("\n").pop()}`;
  }

  /** This result; throws CellFailed when it is not `ok`. */
  check(): this {
    if (!this.ok) throw new CellFailed(this);
    return this;
  }

  toString(): string {
    const cut = this.truncated ? `[${TRUNCATED}]` : "";
    return [this.text.replace(/\n+$/, ""), cut, this.message ?? ""].filter(Boolean).join("\n");
  }

  private bundles(wanted: (piece: Piece) => boolean): Bundle[] {
    return this.shown.pieces.filter((piece) => !piece.stream && wanted(piece)).map((piece) => piece.data);
  }
}

/** Code that was checked failed, or a part of its output is missing; `result` has the rest. */
export class CellFailed extends BayError {
  static override readonly code = "cell_failed";
  static override readonly status = 0;

  constructor(readonly result: CellResult) {
    const { cellId, status, truncated } = result;
    super(result.outcome, { details: { cell_id: cellId, status, truncated } });
  }
}

/** Takes the events of one cell in order; then has its output. */
export class Shown {
  pieces: Piece[] = [];
  executionCount: number | null = null;
  error: CellEvent | null = null;
  end: CellEvent | null = null;
  private clearNext = false;

  take(event: CellEvent): void {
    this.executionCount = event.execution_count ?? this.executionCount;
    if (event.type === "clear") this.clear(event);
    else if (event.type === "error") this.error = event;
    else if (event.type === "end") this.end = event;
    else if (event.type !== "start") this.show(event);
  }

  /** The text of one stream. */
  stream(name: "stdout" | "stderr"): string {
    return this.pieces.flatMap((piece) => (piece.stream === name ? piece.parts : [])).join("");
  }

  private show(event: CellEvent): void {
    if (event.update) return this.update(event);
    if (this.clearNext) this.clear();
    const last = this.pieces.at(-1);
    if (last?.stream && last.stream === event.type) last.parts.push(event.text ?? "");
    else this.pieces.push(pieceOf(event));
  }

  private update(event: CellEvent): void {
    for (const piece of this.pieces) {
      if (piece.displayId !== null && piece.displayId === event.display_id) piece.data = event.data ?? {};
    }
  }

  private clear(event?: CellEvent): void {
    this.clearNext = event?.wait === true;
    if (!this.clearNext) this.pieces = [];
  }
}

function pieceOf(event: CellEvent): Piece {
  return {
    stream: event.type === "stdout" || event.type === "stderr" ? event.type : null,
    parts: [event.text ?? ""],
    data: event.data ?? {},
    displayId: event.display_id ?? null,
    isResult: event.type === "result",
  };
}

/** For a reader who sees no images. */
function plain(piece: Piece): string {
  if (piece.stream) return piece.parts.join("");
  return "image/png" in piece.data ? "" : String(piece.data["text/plain"] ?? "");
}

function textOf(pieces: readonly Piece[]): string {
  let text = "";
  let last: Piece | null = null;
  for (const piece of pieces) {
    const more = plain(piece);
    if (more === "") continue;
    const isApart = last !== null && !(last.stream && piece.stream);
    text += (isApart && !text.endsWith("\n") ? "\n" : "") + more;
    last = piece;
  }
  return text;
}

function why({ end, error }: Shown): string | null {
  if (end === null) return "the kernel did not say how it ended";
  const kept = end.restarted ? "the kernel was restarted and its variables are gone" : "variables were kept";
  switch (end.status) {
    case "ok":
      return null;
    case "timeout":
      return `Execution timed out after ${((end.duration_ms ?? 0) / 1000).toFixed(1)} s; ${kept}`;
    case "interrupted":
      return `Execution was interrupted; ${kept}`;
    case "lost":
      return end.message ?? "the kernel ended before the code did, and its variables are gone";
    default:
      return tracebackOf(error) || (end.message ?? "the code failed and did not say why");
  }
}

function tracebackOf(error: CellEvent | null): string {
  if (error === null) return "";
  const text = error.traceback?.join("\n") || `${error.ename}: ${error.evalue}`;
  return text.replace(ANSI, "");
}

function imageIn(bundle: Bundle): Image | null {
  const mediaType = IMAGES.find((kind) => typeof bundle[kind] === "string");
  if (mediaType === undefined) return null;
  const text = String(bundle[mediaType]);
  try {
    return { mediaType, data: mediaType === SVG ? toBytes(text) : fromBase64(text.replace(/\s/g, "")) };
  } catch {
    return null; // the code said so, and it is not: `displays` and `results` have what it gave
  }
}

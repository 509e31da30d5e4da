/** The result of a finished command. */

import { joined, toBytes, toText } from "./bytes.js";
import { BayError, InvalidArgument } from "./errors.js";
import { chunkFromWire, OutputChunk, type Stream } from "./output.js";
import type { Exec, Keep } from "./types.js";

const DEFAULT_OUTPUT_BYTES = 16 << 20;
const MAX_OUTPUT_BYTES = 1 << 30;
/** The exit code of timeout(1). */
const TIMED_OUT = 124;

/** How a command ended and what it printed. */
export class RunResult {
  readonly execId: string;
  readonly argv: readonly string[];
  /** Null when a signal ended it, or its sandbox stopped under it. */
  readonly exitCode: number | null;
  /** The number of the signal that ended it. */
  readonly signal: number | null;
  readonly timedOut: boolean;
  /** Null while it still runs. */
  readonly durationS: number | null;

  constructor(
    info: Exec,
    /** What it printed, in the order in which it came. */
    readonly chunks: readonly OutputChunk[],
    /** How much of its output is not here: more than was to be kept, or lost on the way. */
    readonly omittedBytes: number,
    /** This program has read the output by itself, so what is not here is not lost. */
    readonly wasRead = false,
  ) {
    this.execId = info.id;
    this.argv = info.argv;
    this.exitCode = info.exit_code;
    this.signal = info.signal;
    this.timedOut = info.timed_out;
    this.durationS = info.ended_at === null ? null : (Date.parse(info.ended_at) - Date.parse(info.started_at)) / 1000;
  }

  /** Its output on stdout, or on its terminal. */
  get stdoutBytes(): Uint8Array {
    return this.of("stdout", "tty");
  }

  get stderrBytes(): Uint8Array {
    return this.of("stderr");
  }

  /** Both in the order in which they came. */
  get outputBytes(): Uint8Array {
    return this.of("stdout", "stderr", "tty");
  }

  get stdout(): string {
    return toText(this.stdoutBytes);
  }

  get stderr(): string {
    return toText(this.stderrBytes);
  }

  get output(): string {
    return toText(this.outputBytes);
  }

  /** Whether output is missing. */
  get truncated(): boolean {
    return this.omittedBytes > 0;
  }

  /** Whether it ended by itself with exit code 0, and no output was lost. */
  get ok(): boolean {
    return this.exitCode === 0 && !this.timedOut && this.lostBytes === 0;
  }

  /** Its exit code in a shell: 128 and the signal's number, 124 after the time limit; null when lost. */
  get returncode(): number | null {
    if (this.timedOut) return TIMED_OUT;
    return this.signal === null ? this.exitCode : 128 + this.signal;
  }

  /** How it ended, in words. */
  get outcome(): string {
    if (this.timedOut) return "ran out of time";
    if (this.signal !== null) return `was killed by signal ${this.signal}`;
    if (this.exitCode === null) return "was lost with its session";
    const lost = this.lostBytes ? `, and ${this.lostBytes} bytes of its output are missing` : "";
    return `exited with ${this.exitCode}${lost}`;
  }

  /** This result; throws CommandFailed when it is not `ok`. */
  check(): this {
    if (!this.ok) throw new CommandFailed(this);
    return this;
  }

  toString(): string {
    const missing = this.truncated ? `[${this.omittedBytes} bytes of output are missing]` : "";
    const note = this.ok || this.exitCode === 0 ? "" : `[${this.outcome}]`;
    const texts = [this.stdout, this.stderr].map((text) => text.replace(/\n+$/, ""));
    return [...texts, missing, note].filter(Boolean).join("\n");
  }

  private get lostBytes(): number {
    return this.wasRead ? 0 : this.omittedBytes;
  }

  private of(...streams: Stream[]): Uint8Array {
    return joined(this.chunks.filter((chunk) => streams.includes(chunk.stream)).map((chunk) => chunk.data));
  }
}

/** A command that was checked did not exit with 0, or its output has a gap. `result` has all of it. */
export class CommandFailed extends BayError {
  static override readonly code = "command_failed";
  static override readonly status = 0;

  constructor(readonly result: RunResult) {
    const last = result.stderr.trim().split("\n").pop();
    const { execId, exitCode, signal } = result;
    super(`\`${result.argv.join(" ")}\` ${result.outcome}${last ? `: ${last}` : ""}`, {
      details: { exec_id: execId, exit_code: exitCode, signal },
    });
  }
}

/** Keeps a command's output as it comes: `limit` bytes, and of more the part that `keep` names. */
export class Collected {
  /** Of the byte that comes next. */
  nextOffset = 0;
  private headLeft: number;
  private readonly tailLimit: number;
  private readonly head: OutputChunk[] = [];
  private readonly tail: OutputChunk[] = [];
  private tailBytes = 0;

  constructor(limit = DEFAULT_OUTPUT_BYTES, keep: Keep = "tail") {
    if (!(limit > 0 && limit <= MAX_OUTPUT_BYTES)) {
      throw new InvalidArgument(`maxOutputBytes must be between 1 and ${MAX_OUTPUT_BYTES}, not ${limit}`);
    }
    this.headLeft = { head: limit, tail: 0, both: limit - Math.floor(limit / 2) }[keep];
    this.tailLimit = limit - this.headLeft;
  }

  /** More of it, in order. */
  add(chunk: OutputChunk): void {
    this.nextOffset = chunk.end;
    const [first, rest] = chunk.split(this.headLeft);
    this.headLeft -= first.data.length;
    if (first.data.length) this.head.push(first);
    if (!rest.data.length || !this.tailLimit) return;
    this.tail.push(rest);
    this.tailBytes += rest.data.length;
    this.cut();
  }

  /** The result of the command that `info` describes the end of. */
  result(info: Exec, wasRead = false): RunResult {
    const chunks = [...this.head, ...this.tail];
    const kept = chunks.reduce((sum, chunk) => sum + chunk.data.length, 0);
    return new RunResult(info, chunks, Math.max(this.nextOffset, info.output_bytes) - kept, wasRead);
  }

  private cut(): void {
    let first = this.tail[0];
    while (first && this.tailBytes > this.tailLimit) {
      const [gone, rest] = first.split(this.tailBytes - this.tailLimit);
      this.tailBytes -= gone.data.length;
      if (rest.data.length) this.tail[0] = rest;
      else this.tail.shift();
      first = this.tail[0];
    }
  }
}

/** The output in the answer to an exec with `?wait=`. */
export function chunksOf(info: Exec): OutputChunk[] {
  if (info.output) return info.output.map(chunkFromWire);
  const at = info.first_offset;
  const stdout = new OutputChunk(at, info.tty ? "tty" : "stdout", toBytes(info.stdout ?? ""), info.started_at);
  return [stdout, new OutputChunk(stdout.end, "stderr", toBytes(info.stderr ?? ""), info.started_at)];
}

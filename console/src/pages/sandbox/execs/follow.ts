/** The output of an exec, from its oldest byte that Bay still has to its end, over connections that may break. */

import { BayError, OutputGone } from "bay-sandbox";

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;

export interface Chunk {
  /** Of its first byte, from the start of the output. */
  readonly offset: number;
  readonly data: Uint8Array;
}

export type Progress =
  | { kind: "reading" }
  /** So many bytes before this place are no longer kept. */
  | { kind: "missing"; bytes: number }
  | { kind: "broken"; error: unknown }
  | { kind: "end" }
  /** Bay has none of it any more. */
  | { kind: "gone" }
  | { kind: "failed"; error: unknown };

/**
 * Give each chunk to `show`, and wait until it is shown: the connection is not read meanwhile, so that the server
 * slows down too. `open` begins at an offset, or without one at the oldest byte still kept.
 */
export async function followOutput(
  open: (since: number | undefined) => AsyncIterable<Chunk>,
  show: (chunk: Chunk) => Promise<void>,
  tell: (progress: Progress) => void,
  pause: (ms: number) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  let next = 0;
  let failures = 0;
  let since: number | undefined;
  tell({ kind: "reading" });
  while (!signal.aborted) {
    try {
      for await (const chunk of open(since)) {
        if (signal.aborted) return;
        if (failures > 0) tell({ kind: "reading" });
        failures = 0;
        if (chunk.offset > next) tell({ kind: "missing", bytes: chunk.offset - next });
        await show(chunk);
        next = chunk.offset + chunk.data.length;
        since = next;
      }
      return tell({ kind: "end" });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof OutputGone) {
        if (since === undefined) return tell({ kind: "gone" });
        since = undefined; // the next chunk says how much is missing
        continue;
      }
      if (!mayComeBack(error)) return tell({ kind: "failed", error });
      tell({ kind: "broken", error });
      await pause(Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures));
      failures += 1;
    }
  }
}

function mayComeBack(error: unknown): boolean {
  return error instanceof BayError && (error.retryable || [502, 503, 504].includes(error.status));
}

/** Streams of bytes are cut into lines and events. */

import { BayError } from "./errors.js";
import type { Json } from "./names.js";

const MAX_LINE = 16 << 20;

/** Cuts a stream at `end` into its complete lines; what is behind the last is kept for later. */
export class Lines {
  private readonly decoder = new TextDecoder();
  private rest = "";

  constructor(private readonly end = "\n") {}

  /** The lines that `data` completes, without empty ones. */
  feed(data: Uint8Array): string[] {
    const text = this.decoder.decode(data, { stream: true });
    this.rest += text;
    if (this.rest.length > MAX_LINE && !text.includes("\n")) {
      throw new BayError(`the server sent a line of more than ${MAX_LINE} bytes; is it a Bay of another version?`);
    }
    if (!text.includes("\n")) return [];
    const lines = this.rest.split(this.end);
    this.rest = lines.pop() ?? "";
    return lines.filter((line) => line.trim() !== "");
  }
}

/** The JSON object on one line. */
export function lineObject(line: string): Json {
  const found = jsonOrUndefined(line);
  if (typeof found !== "object" || found === null || Array.isArray(found)) {
    throw new BayError(`the server sent ${JSON.stringify(line.slice(0, 40))}, which is not a line of output`);
  }
  return found as Json;
}

/** What a JSON text says; undefined for a text that is none. */
export function jsonOrUndefined(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

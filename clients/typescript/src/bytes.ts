/** Bytes: base64, text, and the pieces of what is uploaded. */

const PIECE_BYTES = 256 << 10;

/** What an upload takes. A stream or an iterable is read once, so it is not sent again after a failure. */
export type Source =
  | string
  | Uint8Array
  | Blob
  | ReadableStream<Uint8Array>
  | AsyncIterable<Uint8Array>
  | Iterable<Uint8Array>;

interface NodeBuffer {
  from(text: string, encoding: "base64"): Uint8Array;
}

// Newer platforms decode by themselves, and Node's Buffer is quick; neither is there everywhere.
const own = (Uint8Array as { fromBase64?: (text: string) => Uint8Array }).fromBase64;
const nodes = (globalThis as { Buffer?: NodeBuffer }).Buffer;

/** The bytes of a text in base64. Throws for a text that is none. */
export function fromBase64(text: string): Uint8Array {
  if (own) return own.call(Uint8Array, text);
  if (nodes) return plain(nodes.from(text, "base64"));
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function plain(buffer: Uint8Array): Uint8Array {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}

/** Bytes as base64, with `+` and `/`. */
export function toBase64(data: Uint8Array): string {
  let text = "";
  for (let start = 0; start < data.length; start += 8192) {
    text += String.fromCharCode(...data.subarray(start, start + 8192));
  }
  return btoa(text);
}

/** UTF-8 text; undecodable bytes are replaced. */
export function toText(data: Uint8Array): string {
  return new TextDecoder().decode(data);
}

/** Text as UTF-8, bytes as they are. */
export function toBytes(data: string | Uint8Array): Uint8Array {
  return typeof data === "string" ? new TextEncoder().encode(data) : data;
}

/** All of these one after the other. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Whether a source can be read a second time. */
export function isRepeatable(source: Source): boolean {
  return typeof source === "string" || source instanceof Uint8Array || source instanceof Blob;
}

/** A source piece by piece. */
export async function* pieces(source: Source): AsyncGenerator<Uint8Array, void> {
  if (typeof source === "string" || source instanceof Uint8Array) {
    const whole = toBytes(source);
    for (let start = 0; start < whole.length; start += PIECE_BYTES) {
      yield whole.subarray(start, start + PIECE_BYTES);
    }
  } else {
    yield* source instanceof Blob ? read(source.stream()) : source instanceof ReadableStream ? read(source) : source;
  }
}

/** The chunks of a stream, which is cancelled when the reader leaves early. */
export async function* read(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  const reader = stream.getReader();
  let ended = false;
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
    ended = true;
  } finally {
    if (!ended) await reader.cancel().catch(() => undefined);
  }
}

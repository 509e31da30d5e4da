/** Bytes: base64, text, and what is uploaded. */

/** What is read once, so that it is not sent again after a failure. */
export type Pieces = ReadableStream<Uint8Array> | AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/**
 * What an upload takes. Text, bytes and a blob are sent whole, which every platform does. The others are streamed:
 * of browsers only those do that which Chromium is the base of, and over HTTP/2 alone. A file there is a blob, whose
 * bytes are read from the disk as they are sent.
 */
export type Source = string | Uint8Array | Blob | Pieces;

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

/** Whether a source can be read a second time; it is then sent whole. */
export function isRepeatable(source: Source): source is string | Uint8Array | Blob {
  return typeof source === "string" || source instanceof Uint8Array || source instanceof Blob;
}

/** The body that a platform sends at once. It brings no content type of its own, as text and most blobs would. */
export function wholeBody(source: string | Uint8Array | Blob): Uint8Array<ArrayBuffer> | Blob {
  return source instanceof Blob ? source.slice() : (toBytes(source) as Uint8Array<ArrayBuffer>);
}

/** The size of what is sent whole, in bytes at least. */
export function sizeOf(source: string | Uint8Array | Blob): number {
  return source instanceof Blob ? source.size : source.length;
}

/** The pieces of a source that is read once. */
export async function* pieces(source: Pieces): AsyncGenerator<Uint8Array, void> {
  yield* source instanceof ReadableStream ? read(source) : source;
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

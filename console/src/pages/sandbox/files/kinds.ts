/** How a file is shown, by its name and its first bytes. */

import { nameOf } from "./paths";

/** Up to this size a text can be changed here; of a longer one the first part is shown. */
export const EDITED_BYTES = 4 * 1024 * 1024;
export const SHOWN_BYTES = 512 * 1024;
/** Up to this size a picture is shown. */
export const PICTURE_BYTES = 32 * 1024 * 1024;
const LOOKED_AT = 8192;

export type Kind = "image" | "svg" | "table" | "markdown" | "html" | "text";

const IMAGES: Record<string, string> = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  gif: "image/gif",
  webp: "image/webp",
  avif: "image/avif",
  bmp: "image/bmp",
  ico: "image/x-icon",
};
const KINDS: Record<string, Kind> = {
  svg: "svg",
  csv: "table",
  tsv: "table",
  md: "markdown",
  markdown: "markdown",
  html: "html",
  htm: "html",
  xhtml: "html",
};

export function extensionOf(path: string): string {
  const name = nameOf(path);
  const at = name.lastIndexOf(".");
  return at <= 0 ? "" : name.slice(at + 1).toLowerCase();
}

export function kindOf(path: string): Kind {
  const extension = extensionOf(path);
  return extension in IMAGES ? "image" : (KINDS[extension] ?? "text");
}

/** The type of a picture; empty for what is none. */
export function imageType(path: string): string {
  return extensionOf(path) === "svg" ? "image/svg+xml" : (IMAGES[extensionOf(path)] ?? "");
}

/** A text, with what is needed to write it back byte for byte; null for what is no text in UTF-8. */
export interface Text {
  text: string;
  /** What ends its lines. */
  ends: "\n" | "\r\n";
}

/** `isPart`: the bytes may end within a character. */
export function textOf(bytes: Uint8Array, isPart = false): Text | null {
  if (bytes.subarray(0, LOOKED_AT).includes(0)) return null;
  try {
    // The mark of the order of bytes is kept: it belongs to the file.
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes, { stream: isPart });
    // One mixed with the other is left as it is: each `\r` is a character then.
    const isDos = text.includes("\r\n") && !/\r(?!\n)|(?<!\r)\n/.test(text);
    return { text, ends: isDos ? "\r\n" : "\n" };
  } catch {
    return null;
  }
}

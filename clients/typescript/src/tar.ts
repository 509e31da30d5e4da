/** Writes tars: ustar, with pax records (POSIX.1-2001) where ustar has no room. */

import { joined, toBytes } from "./bytes.js";

const BLOCK = 512;
const NAME_BYTES = 100;
const SIZE_LIMIT = 8 ** 11;

const TYPES = { file: "0", link: "2", directory: "5" } as const;

/** A file, a directory or a symbolic link of a tar. */
export interface Member {
  /** Its path, with slashes. */
  name: string;
  kind: keyof typeof TYPES;
  /** Permissions, such as `0o644`. */
  mode: number;
  /** Whole seconds since the epoch. */
  mtime: number;
  /** Bytes of a file's content. */
  size?: number;
  /** The target of a link. */
  target?: string;
}

/** The two blocks of zeros that end a tar. */
export const TAR_END = new Uint8Array(2 * BLOCK);

/** The header of a member, with a pax header before it where a value does not fit. */
export function headerOf({ kind, mode, mtime, size = 0, target = "", ...member }: Member): Uint8Array {
  const name = kind === "directory" ? `${member.name}/` : member.name;
  const told = [
    fits(name) ? "" : record("path", name),
    fits(target) ? "" : record("linkpath", target),
    size < SIZE_LIMIT ? "" : record("size", String(size)),
  ].join("");
  const block = blockOf(name, TYPES[kind], [mode, size, mtime], target);
  if (told === "") return block;
  const data = toBytes(told);
  return joined([blockOf("././@PaxHeader", "x", [0, data.length, 0], ""), data, padding(data.length), block]);
}

/** The zeros that fill up content of `size` bytes to whole blocks. */
export function padding(size: number): Uint8Array {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}

function fits(text: string): boolean {
  return text.length <= NAME_BYTES && /^[\x20-\x7e]*$/.test(text);
}

/** A pax record: its length in decimal, which counts itself, the key and the value. */
function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  const size = toBytes(rest).length;
  let length = size + String(size).length;
  length = size + String(length).length;
  return `${length}${rest}`;
}

function blockOf(name: string, type: string, [mode, size, mtime]: [number, number, number], target: string): Uint8Array {
  const block = new Uint8Array(BLOCK);
  const put = (at: number, text: string): void => {
    for (let index = 0; index < text.length; index += 1) block[at + index] = text.charCodeAt(index) & 0x7f;
  };
  const octal = (value: number, digits: number): string => value.toString(8).padStart(digits, "0");
  put(0, name.slice(0, NAME_BYTES));
  put(100, octal(mode & 0o7777, 7));
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  put(124, octal(size < SIZE_LIMIT ? size : 0, 11));
  put(136, octal(Math.max(0, mtime), 11));
  put(148, " ".repeat(8));
  put(156, type);
  put(157, target.slice(0, NAME_BYTES));
  put(257, "ustar\u000000");
  put(148, `${octal(block.reduce((sum, byte) => sum + byte, 0), 6)}\0 `);
  return block;
}

/** Paths of a sandbox, and names as they can be shown. */

export const HOME = "/workspace";
const MOST_NAME_BYTES = 255;

export function join(folder: string, name: string): string {
  return folder === "/" ? `/${name}` : `${folder}/${name}`;
}

export function parentOf(path: string): string {
  const at = path.lastIndexOf("/");
  return at <= 0 ? "/" : path.slice(0, at);
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1) || "/";
}

/** Whether a path is a folder, or is below it. */
export function isWithin(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder === "/" ? "/" : `${folder}/`);
}

/** The folders that lead to a path, the first of them `/`, and the path itself. */
export function wayTo(path: string): string[] {
  const found = ["/"];
  for (const name of path.split("/").filter(Boolean)) found.push(join(found.at(-1) ?? "/", name));
  return found;
}

/** An absolute path without `.`, `..` and empty names. */
export function absolute(path: string, from = HOME): string {
  const names: string[] = [];
  for (const name of (path.startsWith("/") ? path : join(from, path)).split("/")) {
    if (name === "..") names.pop();
    else if (name !== "" && name !== ".") names.push(name);
  }
  return `/${names.join("/")}`;
}

export type NameProblem = "empty" | "slash" | "dots" | "long" | "nul";

/** Why a name cannot be one of a file; null when it can. */
export function problemOf(name: string): NameProblem | null {
  if (name === "") return "empty";
  if (name === "." || name === "..") return "dots";
  if (name.includes("/")) return "slash";
  if (name.includes("\0")) return "nul";
  return new TextEncoder().encode(name).length > MOST_NAME_BYTES ? "long" : null;
}

/** A part of a text: as it is, or the sign that stands for a character that is not seen. */
export interface Piece {
  text: string;
  /** The character behind a sign, such as "U+000A". */
  hidden?: string;
}

// Controls, and characters that are not seen or that turn the order of what follows.
const HIDDEN = /[\p{Cc}\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/u;
// Persian and pictures of several signs have these within; behind a Latin letter they hide.
const JOINERS = /[\u200c\u200d]/u;
const LATIN_END = 0x2ff;
const ESCAPES: Record<string, string> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** A name cut at the characters that would not be seen, or would trick its reader. */
export function piecesOf(text: string): Piece[] {
  const pieces: Piece[] = [];
  let before = 0;
  for (const sign of text) {
    const isHidden = HIDDEN.test(sign) || (JOINERS.test(sign) && before <= LATIN_END);
    before = sign.codePointAt(0) ?? 0;
    if (isHidden) {
      const code = before;
      const hidden = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
      const short = code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : hidden;
      pieces.push({ text: ESCAPES[sign] ?? short, hidden });
      continue;
    }
    const last = pieces.at(-1);
    if (last && last.hidden === undefined) last.text += sign;
    else pieces.push({ text: sign });
  }
  return pieces;
}

/** The same as one text, for titles and for readers of screens. */
export function plain(text: string): string {
  return piecesOf(text)
    .map((piece) => piece.text)
    .join("");
}

/** Whether Bay could not show all of a path's bytes: then no call can name it. */
export function isUnreachable(path: string): boolean {
  return path.includes("\ufffd");
}

/** A glob that matches names with `text` in them. */
export function globOf(text: string): string {
  return `*${text.replace(/[*?[\]]/g, (sign) => `[${sign}]`)}*`;
}

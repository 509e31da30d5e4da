/**
 * `.dockerignore`: which files of a context a build gets.
 *
 * The last pattern that matches a file, or a directory above it, decides. The rules are those of
 * https://docs.docker.com/build/concepts/context/#dockerignore-files
 */

import { InvalidArgument } from "./errors.js";

interface Pattern {
  form: RegExp;
  bringsBack: boolean;
}

/** The patterns of a file, in their order. */
export class Ignored {
  private readonly patterns: Pattern[] = [];

  /** Throws InvalidArgument with the line of a pattern that cannot be understood. */
  constructor(text = "") {
    text.replace(/^\uFEFF/, "").split("\n").forEach((line, index) => {
      if (!line.startsWith("#") && line.trim() !== "") this.patterns.push(patternOf(line.trim(), index + 1));
    });
  }

  /** Whether something below a directory that is left out may be in. */
  get bringsBack(): boolean {
    return this.patterns.some((pattern) => pattern.bringsBack);
  }

  /** Whether the file or directory at `path`, relative to the context's top, is left out. */
  covers(path: string): boolean {
    const steps = path.split("/");
    const names = steps.map((_, index) => steps.slice(0, index + 1).join("/"));
    let ignored = false;
    for (const { form, bringsBack } of this.patterns) {
      if (bringsBack === ignored && names.some((name) => form.test(name))) ignored = !bringsBack;
    }
    return ignored;
  }
}

function patternOf(text: string, line: number): Pattern {
  const bringsBack = text.startsWith("!");
  const body = bringsBack ? text.slice(1).trim() : text;
  if (body === "") throw new InvalidArgument(`.dockerignore line ${line}: a ! alone names nothing; put a pattern behind it`);
  try {
    return { form: new RegExp(`^(?:${expression(normal(body))})$`, "su"), bringsBack };
  } catch (error) {
    const shown = JSON.stringify(body.slice(0, 80));
    throw new InvalidArgument(`.dockerignore line ${line}: ${shown} is no pattern: ${(error as Error).message}`);
  }
}

/** The path without `.`, `..` and empty steps. */
function normal(path: string): string {
  const steps: string[] = [];
  for (const step of path.split("/")) {
    if (step === "..") steps.pop();
    else if (step !== "" && step !== ".") steps.push(step);
  }
  return steps.join("/") || ".";
}

/** `**` stands for any number of directories, `*` and `?` for no slash, as in Go's `path.Match`. */
function expression(text: string): string {
  let found = "";
  for (let at = 0; at < text.length; ) {
    const [piece, next] = component(text, at);
    found += piece;
    at = next;
  }
  return found;
}

function component(text: string, at: number): [string, number] {
  if (text.startsWith("**", at)) {
    const next = at + 2 + (text.startsWith("/", at + 2) ? 1 : 0);
    return [next < text.length ? "(?:.*/)?" : ".*", next];
  }
  const char = String.fromCodePoint(text.codePointAt(at) ?? 0);
  if (char === "*") return ["[^/]*", at + 1];
  if (char === "?") return ["[^/]", at + 1];
  if (char === "[") return characters(text, at);
  if (char !== "\\") return [literal(char), at + char.length];
  const next = text.codePointAt(at + 1);
  if (next === undefined) throw new Error("a backslash ends it");
  const taken = String.fromCodePoint(next);
  return [literal(taken), at + 1 + taken.length];
}

/** A class such as `[a-z]` or `[^a-z]`. */
function characters(text: string, at: number): [string, number] {
  const found = /^\[(\^|(?!\^))((?:\\.|[^\\])(?:\\.|[^\\\]])*)\]/su.exec(text.slice(at));
  if (!found) throw new Error("a [ has no ]");
  const [whole, negated, inner = ""] = found;
  const safe = inner.replace(/\\(.)|([\^$.*+?()[\]{}|/])/gsu, (_, escaped?: string, special?: string) => {
    return literal(escaped ?? special ?? "", true);
  });
  return [`(?!/)[${negated}${safe}]`, at + whole.length];
}

function literal(char: string, inClass = false): string {
  if (inClass && char === "-") return "\\-";
  return /[\^$\\.*+?()[\]{}|/]/u.test(char) ? `\\${char}` : char;
}

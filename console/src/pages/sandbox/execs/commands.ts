/** Lines of `NAME=VALUE`, as people paste them; empty ones and comments are left out. Throws with the line's number. */
export function envOf(text: string): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [at, line] of text.split("\n").entries()) {
    const trimmed = line.trim();
    if (!trimmed || trimmed.startsWith("#")) continue;
    const found = /^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$/.exec(trimmed);
    if (found === null) throw new EnvLine(at + 1);
    env[found[1] ?? ""] = found[2] ?? "";
  }
  return env;
}

/** A line that is no `NAME=VALUE`. */
export class EnvLine extends Error {
  constructor(readonly line: number) {
    super(`line ${line} is not NAME=VALUE`);
  }
}

/** How long it has run or ran, seconds. */
export function ranFor(exec: { started_at: string; ended_at: string | null }, now = Date.now()): number {
  const end = exec.ended_at === null ? now : Date.parse(exec.ended_at);
  return Math.max(0, (end - Date.parse(exec.started_at)) / 1000);
}

/** A command as one would type it: a shell's own command alone, else its arguments with quotes where they need them. */
export function commandOf(argv: readonly string[]): string {
  const [first = "", option, command] = argv;
  if (/(^|\/)(ba)?sh$/.test(first) && option === "-c" && command !== undefined && argv.length === 3)
    return command;
  return argv
    .map((part) => (/^[\w@%+=:,./-]+$/.test(part) ? part : `'${part.replaceAll("'", "'\\''")}'`))
    .join(" ");
}

/**
 * Output of programs as plain text. A program inside a sandbox is not trusted: its escape sequences are left out, and so
 * are control characters that would hide or turn around what is written.
 */

// biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is looked for
const SEQUENCES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

export function plain(text: string): string {
  return text.replace(SEQUENCES, "").replace(/\r+\n/g, "\n").replace(/\r/g, "\n").replace(CONTROLS, "");
}

/** The end of a text, of at most so many characters, from the beginning of a line. */
export function tail(text: string, most: number): string {
  if (text.length <= most) return text;
  const cut = text.slice(-most);
  return cut.slice(cut.indexOf("\n") + 1);
}

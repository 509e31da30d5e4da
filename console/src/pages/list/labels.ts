/** The labels of a text with one `key=value` in each line. Throws an Error with the words for a line that is none. */
export function labelsOf(text: string, words: (line: string) => string): Record<string, string> {
  const lines = text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf("=");
      if (at < 1) throw new Error(words(line));
      return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    }),
  );
}

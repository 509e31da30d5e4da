/** The words of a command line, by the quoting of POSIX shells and nothing else of them: no variables, no pipes. */
export function shellWords(line: string): string[] | null {
  const found: string[] = [];
  let word: string | null = null;
  let quote = "";
  for (let at = 0; at < line.length; at += 1) {
    const sign = line[at] ?? "";
    if (quote === "'") {
      if (sign === "'") quote = "";
      else word = (word ?? "") + sign;
    } else if (sign === "\\" && (quote === "" || /["\\$`]/.test(line[at + 1] ?? ""))) {
      at += 1;
      word = (word ?? "") + (line[at] ?? "");
    } else if (quote === '"') {
      if (sign === '"') quote = "";
      else word = (word ?? "") + sign;
    } else if (sign === "'" || sign === '"') {
      quote = sign;
      word ??= "";
    } else if (/\s/.test(sign)) {
      if (word !== null) found.push(word);
      word = null;
    } else word = (word ?? "") + sign;
  }
  if (quote) return null;
  return word === null ? found : [...found, word];
}

/** One line that a shell reads as these words again. */
export function shellLine(words: readonly string[]): string {
  return words
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(" ");
}

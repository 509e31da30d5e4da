/** Reads tables of RFC 4180: fields between commas (or tabs, or semicolons), quoted ones with anything in them. */

export interface Table {
  rows: string[][];
  /** More rows were there than are shown. */
  isCut: boolean;
}

const QUOTE = '"';
const CHOICES = [",", "\t", ";", "|"];

/** What parts the fields of the first line: that of which there is most outside of quotes. */
export function separatorOf(text: string): string {
  const counts = CHOICES.map((choice) => ({ choice, number: 0 }));
  let isQuoted = false;
  for (const sign of text.slice(0, 10_000)) {
    if (sign === QUOTE) isQuoted = !isQuoted;
    else if (sign === "\n" && !isQuoted) break;
    else if (!isQuoted) for (const one of counts) if (one.choice === sign) one.number += 1;
  }
  return counts.reduce((best, one) => (one.number > best.number ? one : best)).choice;
}

export function parseTable(text: string, separator: string, mostRows: number): Table {
  const rows: string[][] = [];
  let row: string[] = [];
  let at = text.startsWith("\ufeff") ? 1 : 0;
  while (at < text.length) {
    if (rows.length === mostRows) return { rows, isCut: true };
    let field = "";
    if (text[at] === QUOTE) {
      at += 1;
      for (;;) {
        const end = text.indexOf(QUOTE, at);
        if (end < 0) {
          field += text.slice(at);
          at = text.length;
          break;
        }
        field += text.slice(at, end);
        at = end + 1;
        if (text[at] !== QUOTE) break;
        field += QUOTE;
        at += 1;
      }
    }
    const start = at;
    while (at < text.length && text[at] !== separator && text[at] !== "\n") at += 1;
    field +=
      text[at] === "\n" && text[at - 1] === "\r"
        ? text.slice(start, Math.max(start, at - 1))
        : text.slice(start, at);
    row.push(field);
    const sign = text[at];
    at += 1;
    if (sign === separator) {
      if (at >= text.length) row.push("");
      else continue;
    }
    rows.push(row);
    row = [];
  }
  if (row.length) rows.push(row);
  return { rows, isCut: false };
}

/**
 * Tables out of the HTML of a sandbox, such as pandas makes. The HTML is hostile: it is parsed into a document that
 * no page shows, which runs and loads nothing, and only the text of its cells is taken.
 */

export interface TableCell {
  text: string;
  isHeader: boolean;
  across: number;
  down: number;
}

export interface FoundTable {
  head: TableCell[][];
  body: TableCell[][];
  /** Whether rows or columns are left out. */
  cut: boolean;
  /** What stands below it, such as "1000 rows × 5 columns". */
  note: string;
}

const MOST_HTML = 2_000_000;
const MOST_ROWS = 500;
const MOST_COLUMNS = 100;
const MOST_SPAN = 100;
const MOST_TEXT = 2_000;

/** The first table of that HTML, null without one. */
export function tableIn(html: string): FoundTable | null {
  if (html.length > MOST_HTML || !/<table[\s>]/i.test(html)) return null;
  const page = new DOMParser().parseFromString(unstyled(html), "text/html");
  const table = page.querySelector("table");
  if (table === null) return null;
  const rows = [...table.rows];
  const heads = new Set(table.tHead ? [...table.tHead.rows] : []);
  const shown = rows.slice(0, MOST_ROWS);
  const note = [...page.querySelectorAll("p")].map((one) => textOf(one)).join(" ");
  return {
    head: shown.filter((row) => heads.has(row)).map(cellsOf),
    body: shown.filter((row) => !heads.has(row)).map(cellsOf),
    cut: rows.length > MOST_ROWS || rows.some((row) => row.cells.length > MOST_COLUMNS),
    note: note.slice(0, 200),
  };
}

/**
 * That HTML without its styles and handlers. They would do nothing, but the page's policy reports each, and pandas
 * styles every table. In time linear in its length, whatever it is.
 */
function unstyled(html: string): string {
  return withoutStyleSheets(html).replace(/<[a-z][^<>]*>/gi, (tag) => tag.replace(STYLED, ""));
}

const STYLED = /\s(?:style|on[a-z]+)\s*=\s*(?:"[^"]*"|'[^']*'|[^\s>]*)/gi;

function withoutStyleSheets(html: string): string {
  const lower = html.replace(/[A-Z]/g, (letter) => letter.toLowerCase()); // as long as before, in any script
  const kept: string[] = [];
  let at = 0;
  for (let from = lower.indexOf("<style"); from >= 0; from = lower.indexOf("<style", at)) {
    kept.push(html.slice(at, from));
    const end = lower.indexOf("</style", from);
    at = end < 0 ? html.length : lower.indexOf(">", end) + 1 || html.length;
  }
  return kept.join("") + html.slice(at);
}

function cellsOf(row: HTMLTableRowElement): TableCell[] {
  return [...row.cells].slice(0, MOST_COLUMNS).map((cell) => ({
    text: textOf(cell),
    isHeader: cell.tagName === "TH",
    across: Math.min(MOST_SPAN, cell.colSpan),
    down: Math.min(MOST_SPAN, cell.rowSpan),
  }));
}

function textOf(element: Element): string {
  for (const code of element.querySelectorAll("script, style")) code.remove();
  return (element.textContent ?? "").trim().slice(0, MOST_TEXT);
}

/** The cells of a notebook and what is kept of them in this browser. */

import { NOT_RUN, type Output, type Ran } from "./outputs";

export interface Cell {
  readonly id: string;
  readonly code: string;
  /** The id of its run in Bay, by which its events are found again. */
  readonly runId: string | null;
  readonly kernelId: string;
  readonly ran: Ran;
}

/** So many characters of one notebook are kept; browsers give a page about five million for all. */
export const KEPT_LENGTH = 1_000_000;
export const DEFAULT_KERNEL = "default";

function hex(length: number): string {
  const bytes = crypto.getRandomValues(new Uint8Array(length / 2));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** An id for a run, as Bay takes it. */
export function newRunId(): string {
  return `cell-${hex(24)}`;
}

export function newCell(code = ""): Cell {
  return { id: hex(16), code, runId: null, kernelId: DEFAULT_KERNEL, ran: NOT_RUN };
}

export function change(cells: readonly Cell[], id: string, by: (cell: Cell) => Cell): Cell[] {
  return cells.map((cell) => (cell.id === id ? by(cell) : cell));
}

/** With `added` behind the cell of that id, or at the end. */
export function addAfter(cells: readonly Cell[], id: string | null, added: Cell): Cell[] {
  const at = cells.findIndex((cell) => cell.id === id);
  return at < 0 ? [...cells, added] : cells.toSpliced(at + 1, 0, added);
}

/** Without that cell; a notebook is never without any. */
export function remove(cells: readonly Cell[], id: string): Cell[] {
  const left = cells.filter((cell) => cell.id !== id);
  return left.length ? left : [newCell()];
}

export function move(cells: readonly Cell[], id: string, by: -1 | 1): Cell[] {
  const at = cells.findIndex((cell) => cell.id === id);
  const cell = cells[at];
  const to = at + by;
  if (cell === undefined || to < 0 || to >= cells.length) return [...cells];
  return cells.toSpliced(at, 1).toSpliced(to, 0, cell);
}

export function isBusy({ ran }: Cell): boolean {
  return ran.state === "queued" || ran.state === "running";
}

/**
 * The text to keep. When all is too long, the longest outputs are left out first; null when the code alone is too
 * long.
 */
export function kept(cells: readonly Cell[]): string | null {
  const short = [...cells];
  for (;;) {
    const text = JSON.stringify(short);
    if (text.length <= KEPT_LENGTH) return text;
    const sizes = short.map(({ ran }) => (ran.outputs.length ? JSON.stringify(ran.outputs).length : 0));
    const longest = Math.max(...sizes);
    if (longest === 0) return null;
    const at = sizes.indexOf(longest);
    const cell = short[at];
    if (cell !== undefined) short[at] = { ...cell, ran: { ...cell.ran, outputs: [], cut: true } };
  }
}

/** The cells of a text that was kept; one empty cell for none, and for what is no such text. */
export function restored(text: string | null): Cell[] {
  try {
    const found: unknown = JSON.parse(text ?? "[]");
    const cells = Array.isArray(found) ? found.flatMap((one) => cellOf(one) ?? []) : [];
    return cells.length ? cells : [newCell()];
  } catch {
    return [newCell()];
  }
}

function cellOf(given: unknown): Cell | null {
  if (typeof given !== "object" || given === null) return null;
  const { id, code, runId, kernelId, ran } = given as Record<string, unknown>;
  if (typeof id !== "string" || typeof code !== "string") return null;
  return {
    id,
    code,
    runId: typeof runId === "string" ? runId : null,
    kernelId: typeof kernelId === "string" ? kernelId : DEFAULT_KERNEL,
    ran: ranOf(ran),
  };
}

function ranOf(given: unknown): Ran {
  if (typeof given !== "object" || given === null) return NOT_RUN;
  const ran = { ...NOT_RUN, ...(given as Partial<Ran>) };
  return { ...ran, outputs: Array.isArray(ran.outputs) ? ran.outputs.filter(isOutput) : [] };
}

function isOutput(given: unknown): given is Output {
  if (typeof given !== "object" || given === null) return false;
  const one = given as Record<string, unknown>;
  if (one["kind"] === "text") return typeof one["text"] === "string";
  if (one["kind"] === "error") return typeof one["traceback"] === "string";
  return one["kind"] === "bundle" && typeof one["data"] === "object" && one["data"] !== null;
}

/** Changes that are not saved yet. They stay while the console is open, whatever page of it is looked at. */

import type { FileInfo } from "bay-sandbox";

export interface Draft {
  /** The text as it is written. */
  read(): string;
  /** What the file was when the changes began. */
  info: FileInfo;
}

const drafts = new Map<string, Draft>();

function keyOf(sandbox: string, path: string): string {
  return `${sandbox}:${path}`;
}

export function draftOf(sandbox: string, path: string): Draft | null {
  return drafts.get(keyOf(sandbox, path)) ?? null;
}

export function hasDraft(sandbox: string, path: string): boolean {
  return drafts.has(keyOf(sandbox, path));
}

export function hasDrafts(): boolean {
  return drafts.size > 0;
}

export function keepDraft(sandbox: string, path: string, draft: Draft): void {
  drafts.set(keyOf(sandbox, path), draft);
}

export function dropDraft(sandbox: string, path: string): void {
  drafts.delete(keyOf(sandbox, path));
}

/** Which sandboxes a search shows. */

import type { Sandbox } from "bay-sandbox";
import { type Shown, shownState } from "@/ui/state_badge";

export interface Filter {
  /** Words that all occur; `key=value` is a label. */
  text: string;
  state: Shown | "";
}

export function matches(box: Sandbox, { text, state }: Filter): boolean {
  if (state !== "" && shownState(box) !== state) return false;
  const labels = Object.entries(box.labels).map(([key, value]) => `${key}=${value}`);
  const all = [box.id, box.name ?? "", box.profile, box.image, ...labels].join("\n").toLowerCase();
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

/** The newest first, as people look for what they have just made. */
export function ordered(boxes: readonly Sandbox[]): Sandbox[] {
  return [...boxes].sort((a, b) => b.created_at.localeCompare(a.created_at) || a.id.localeCompare(b.id));
}

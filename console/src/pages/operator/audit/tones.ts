import type { Tone } from "@/ui/badge";

/** The colour of a status; null is a call without an answer. */
export function toneOf(status: number | null): Tone {
  if (status === null || status >= 500) return "bad";
  return status >= 400 ? "warn" : "good";
}

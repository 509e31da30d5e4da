import type { Sandbox } from "bay-sandbox";
import type { ReactNode } from "react";
import { useWords } from "@/lib/words";
import { listWords } from "@/pages/list/words";
import { Badge, type Tone } from "./badge";

export type Shown = Sandbox["compute"] | "failed" | "expired" | "leaving";

const TONES: Record<Shown, Tone> = {
  running: "good",
  warm: "accent",
  hibernated: "accent",
  cold: "idle",
  warming: "warn",
  failed: "bad",
  expired: "bad",
  leaving: "warn",
};

/** The one word for the state of a sandbox. */
export function shownState(box: Sandbox): Shown {
  if (box.status === "failed" || box.status === "expired") return box.status;
  return box.compute;
}

export function StateBadge({ state }: { state: Shown }): ReactNode {
  const say = useWords(listWords);
  return (
    <Badge tone={TONES[state]} dot>
      {say(state)}
    </Badge>
  );
}

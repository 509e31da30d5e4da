/** The keys that the keyboard of a phone lacks. */

import { ArrowDown, ArrowLeft, ArrowRight, ArrowUp } from "lucide-react";
import type { ReactNode } from "react";
import { useWords } from "@/lib/words";
import { cx } from "@/ui/class_names";
import { terminalWords } from "./words";

const KEY =
  "flex h-11 min-w-10 flex-1 items-center justify-center rounded-lg px-1 text-sm font-medium [&_svg]:size-4.5";

export interface KeyRow {
  /** Whether the next letter is typed as if Ctrl were held. */
  ctrl: boolean;
  setCtrl(on: boolean): void;
  type(data: string): void;
  /** An arrow, by the last letter of its sequence. */
  arrow(letter: "A" | "B" | "C" | "D"): void;
}

export function Keys({ ctrl, setCtrl, type, arrow }: KeyRow): ReactNode {
  const say = useWords(terminalWords);
  const key = (name: string, act: () => void, shown: ReactNode, pressed?: boolean): ReactNode => (
    <button
      key={name}
      type="button"
      aria-label={name}
      aria-pressed={pressed}
      className={cx(KEY, pressed ? "bg-accent text-accent-ink" : "bg-raised active:bg-accent-soft")}
      // The keyboard of the phone stays while the terminal has the focus.
      onPointerDown={(event) => event.preventDefault()}
      onClick={act}
    >
      {shown}
    </button>
  );
  return (
    <fieldset
      aria-label={say("keys")}
      className="hidden shrink-0 gap-1 border-t bg-panel p-1.5 max-md:flex pointer-coarse:flex"
    >
      {key(say("esc"), () => type("\x1b"), say("esc"))}
      {key(say("tab"), () => type("\t"), say("tab"))}
      {key(say("ctrl"), () => setCtrl(!ctrl), say("ctrl"), ctrl)}
      {key("/", () => type("/"), "/")}
      {key("|", () => type("|"), "|")}
      {key(say("left"), () => arrow("D"), <ArrowLeft aria-hidden />)}
      {key(say("up"), () => arrow("A"), <ArrowUp aria-hidden />)}
      {key(say("down"), () => arrow("B"), <ArrowDown aria-hidden />)}
      {key(say("right"), () => arrow("C"), <ArrowRight aria-hidden />)}
    </fieldset>
  );
}

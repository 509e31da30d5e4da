import type { ReactNode } from "react";
import { useWords } from "@/lib/words";
import { piecesOf } from "./paths";
import { filesWords } from "./words";

/** A name or a path of a sandbox: hostile text, in which each character that would not be seen has a sign. */
export function Name({ text }: { text: string }): ReactNode {
  const say = useWords(filesWords);
  let at = 0;
  return (
    <bdi>
      {piecesOf(text).map((piece) => {
        at += piece.text.length;
        if (piece.hidden === undefined) return <span key={at}>{piece.text}</span>;
        return (
          <span
            key={at}
            title={say("hidden", { code: piece.hidden })}
            className="mx-px rounded bg-warn-soft px-0.5 text-warn"
          >
            {piece.text}
          </span>
        );
      })}
    </bdi>
  );
}

import type { ReactNode } from "react";
import { useWords } from "@/lib/words";
import { filesWords } from "../words";

/** A page in a frame of an origin of its own, where no script runs, no form is sent and no window is opened. */
export default function Html({ text, name }: { text: string; name: string }): ReactNode {
  const say = useWords(filesWords);
  return (
    <div className="flex h-full flex-col">
      <p className="border-b px-4 py-1.5 text-xs text-muted">{say("htmlNote")}</p>
      <iframe title={name} sandbox="" srcDoc={text} className="min-h-0 w-full flex-1 bg-white" />
    </div>
  );
}

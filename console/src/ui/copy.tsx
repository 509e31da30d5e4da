import { Check, Copy } from "lucide-react";
import { type ReactNode, useRef, useState } from "react";
import { useWords } from "@/lib/words";
import { shared } from "@/words";
import { Button } from "./button";
import { Input } from "./fields";

/** A text to be copied. Where the browser lets no page write its clipboard, the text is selected instead. */
export function CopyField({ label, value }: { label: string; value: string }): ReactNode {
  const say = useWords(shared);
  const field = useRef<HTMLInputElement>(null);
  const [done, setDone] = useState(false);
  const copy = async (): Promise<void> => {
    field.current?.select();
    try {
      await navigator.clipboard.writeText(value);
      setDone(true);
    } catch {
      setDone(document.execCommand("copy"));
    }
  };
  return (
    <div className="flex gap-2">
      <Input
        ref={field}
        readOnly
        aria-label={label}
        value={value}
        onFocus={(event) => event.target.select()}
        className="min-w-0 flex-1 font-mono"
      />
      <Button
        kind="primary"
        icon={done ? <Check aria-hidden /> : <Copy aria-hidden />}
        onClick={() => void copy()}
      >
        <span aria-live="polite">{say(done ? "copied" : "copy")}</span>
      </Button>
    </div>
  );
}

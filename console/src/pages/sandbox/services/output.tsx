import type { Sandbox } from "bay-sandbox";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { bay } from "@/bay";
import { plain, tail } from "@/lib/plain";
import { useWords } from "@/lib/words";
import { Failed } from "@/ui/states";
import { serviceWords } from "./words";

const MOST = 200_000;
/** So near to its end the text follows what comes. */
const NEAR_PX = 40;

/** The output of a service, followed while it is shown. */
export function Output({ box, name }: { box: Sandbox; name: string }): ReactNode {
  const say = useWords(serviceWords);
  const [text, setText] = useState("");
  const [error, setError] = useState<unknown>(null);
  const [attempt, setAttempt] = useState(0);
  const place = useRef<HTMLPreElement>(null);
  const follows = useRef(true);

  // biome-ignore lint/correctness/useExhaustiveDependencies: a new attempt reads it from the start
  useEffect(() => {
    const stop = new AbortController();
    const decoder = new TextDecoder();
    let kept = "";
    let frame = 0;
    setError(null);
    const show = (): void => {
      frame = 0;
      setText(plain(kept));
    };
    const read = async (): Promise<void> => {
      const { services } = await bay.sandboxes.get(box.id, { signal: stop.signal });
      for await (const chunk of services.logs(name, { follow: true, signal: stop.signal })) {
        kept = tail(kept + decoder.decode(chunk.data, { stream: true }), MOST);
        frame ||= requestAnimationFrame(show); // a flood is shown once a frame
      }
    };
    read().catch((failure) => stop.signal.aborted || setError(failure));
    return () => {
      stop.abort();
      cancelAnimationFrame(frame);
    };
  }, [box.id, name, attempt]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: whenever the text has changed
  useEffect(() => {
    const at = place.current;
    if (at && follows.current) at.scrollTop = at.scrollHeight;
  }, [text]);

  if (error !== null) return <Failed error={error} retry={() => setAttempt(attempt + 1)} />;
  return (
    <pre
      ref={place}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is scrolled by keyboard too
      tabIndex={0}
      role="log"
      aria-label={say("logs")}
      onScroll={({ currentTarget: at }) => {
        follows.current = at.scrollHeight - at.scrollTop - at.clientHeight < NEAR_PX;
      }}
      className="mt-2 max-h-80 overflow-auto rounded-lg bg-raised p-3 text-xs whitespace-pre-wrap"
    >
      {text || <span className="text-muted">{say("noLogs")}</span>}
    </pre>
  );
}

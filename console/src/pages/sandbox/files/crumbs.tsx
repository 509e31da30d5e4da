/** The way to a folder: each part opens, and the whole can be typed. */

import { PencilLine } from "lucide-react";
import { type ReactNode, useState } from "react";
import { useWords } from "@/lib/words";
import { IconButton } from "@/ui/button";
import { Input } from "@/ui/fields";
import { Name } from "./name";
import { absolute, nameOf, plain, wayTo } from "./paths";
import { filesWords } from "./words";

export function Crumbs({ path, onOpen }: { path: string; onOpen(path: string): void }): ReactNode {
  const say = useWords(filesWords);
  const [isTyping, setTyping] = useState(false);
  if (isTyping) {
    return (
      <form
        className="order-last w-full sm:order-none sm:w-auto sm:min-w-40 sm:flex-1"
        onSubmit={(event) => {
          event.preventDefault();
          setTyping(false);
          onOpen(absolute(String(new FormData(event.currentTarget).get("path")), path));
        }}
      >
        <Input
          name="path"
          aria-label={say("place")}
          defaultValue={path}
          autoFocus
          onBlur={() => setTyping(false)}
          onKeyDown={(event) => event.key === "Escape" && setTyping(false)}
          onFocus={(event) => event.target.select()}
          className="font-mono"
        />
      </form>
    );
  }
  const way = wayTo(path);
  return (
    <nav
      aria-label={say("place")}
      className="order-last flex w-full min-w-0 items-center gap-0.5 text-sm sm:order-none sm:w-auto sm:flex-1"
    >
      <ol className="flex min-w-0 items-center overflow-hidden">
        {way.map((one, at) => (
          <li key={one} className="flex min-w-0 items-center last:shrink-0 [&:last-child]:max-w-full">
            {at > 1 ? (
              <span aria-hidden className="px-0.5 text-muted">
                /
              </span>
            ) : null}
            <button
              type="button"
              onClick={() => onOpen(one)}
              title={plain(one)}
              aria-current={at === way.length - 1 ? "page" : undefined}
              className="max-w-48 min-w-7 truncate rounded px-1 py-1 text-muted hover:bg-raised hover:text-ink aria-[current]:font-semibold aria-[current]:text-ink"
            >
              <Name text={nameOf(one)} />
            </button>
          </li>
        ))}
      </ol>
      <IconButton label={say("go")} onClick={() => setTyping(true)}>
        <PencilLine aria-hidden />
      </IconButton>
    </nav>
  );
}

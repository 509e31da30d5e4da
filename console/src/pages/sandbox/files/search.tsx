/** Finds files by what is in them, or by their names. */

import type { Sandbox, SearchResult } from "bay-sandbox";
import { Search, X } from "lucide-react";
import { type FormEvent, type ReactNode, useRef, useState } from "react";
import { count } from "@/lib/format";
import { useWords } from "@/lib/words";
import { Button, IconButton } from "@/ui/button";
import { Check, Input, Select } from "@/ui/fields";
import { Failed } from "@/ui/states";
import { shared } from "@/words";
import { Name } from "./name";
import { globOf, plain } from "./paths";
import { filesOf } from "./sandbox_files";
import type { View } from "./view";
import { filesWords } from "./words";

const MOST = 500;

export function SearchPanel({
  box,
  view,
  onClose,
}: {
  box: Sandbox;
  view: View;
  onClose(): void;
}): ReactNode {
  const say = useWords(filesWords);
  const sayShared = useWords(shared);
  const [result, setResult] = useState<SearchResult | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setBusy] = useState(false);
  const running = useRef<AbortController>(null);

  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    const text = String(given.get("text") ?? "");
    if (text === "") return;
    running.current?.abort();
    const stop = new AbortController();
    running.current = stop;
    setBusy(true);
    setError(null);
    try {
      const files = await filesOf(box.id);
      const options = {
        path: view.folder,
        limit: MOST,
        hidden: given.has("hidden"),
        gitignore: !given.has("hidden"),
        signal: stop.signal,
      };
      const found =
        given.get("where") === "names"
          ? await files.search(null, { ...options, glob: globOf(text) })
          : await files.search(text, { ...options, ignoreCase: given.has("ignoreCase") });
      if (!stop.signal.aborted) setResult(found);
    } catch (failure) {
      if (!stop.signal.aborted) setError(failure);
    }
    if (!stop.signal.aborted) setBusy(false);
  };

  return (
    <section
      aria-label={say("search", { folder: plain(view.folder) })}
      className="border-b bg-panel px-4 py-3"
    >
      <form onSubmit={submit} className="flex flex-wrap items-center gap-2">
        <Input
          type="search"
          name="text"
          aria-label={say("searchText")}
          placeholder={say("searchText")}
          autoFocus
          className="!w-auto min-w-40 flex-1"
        />
        <Select name="where" aria-label={say("nameColumn")} className="!w-auto">
          <option value="content">{say("inContent")}</option>
          <option value="names">{say("inNames")}</option>
        </Select>
        <Check label={say("ignoreCase")} name="ignoreCase" defaultChecked />
        <Check label={say("hiddenFiles")} name="hidden" />
        <Button type="submit" kind="primary" icon={<Search aria-hidden />} busy={isBusy}>
          {say("searchGo")}
        </Button>
        <IconButton label={sayShared("close")} onClick={onClose}>
          <X aria-hidden />
        </IconButton>
      </form>
      {error ? <Failed error={error} /> : null}
      {result ? (
        <div className="mt-3">
          <p role="status" className="text-xs text-muted">
            {result.matches.length ? say("found", { count: result.matches.length }) : say("foundNothing")}{" "}
            {result.truncated ? say("foundCut", { number: count(result.matches.length) }) : ""}
          </p>
          <ul className="mt-1 max-h-[40dvh] overflow-y-auto rounded-lg border">
            {result.matches.map((match) => (
              <li key={`${match.path}:${match.line ?? 0}`} className="border-b last:border-b-0">
                <button
                  type="button"
                  className="flex w-full min-w-0 flex-col gap-0.5 px-3 py-1.5 text-left text-sm hover:bg-raised"
                  onClick={() => view.openFile(match.path, match.line ?? null)}
                >
                  <span className="flex w-full min-w-0 gap-2">
                    <span className="truncate font-medium">
                      <Name text={match.path} />
                    </span>
                    {match.line ? (
                      <span className="shrink-0 text-muted">{say("line", { line: match.line })}</span>
                    ) : null}
                  </span>
                  {match.text ? (
                    <code className="w-full truncate text-muted">
                      <Name text={match.text.trim().slice(0, 300)} />
                    </code>
                  ) : null}
                </button>
              </li>
            ))}
          </ul>
        </div>
      ) : null}
    </section>
  );
}

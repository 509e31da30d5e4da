/** The lines of a text that differ between two versions of a file. */

import { unifiedMergeView } from "@codemirror/merge";
import { EditorState } from "@codemirror/state";
import { EditorView, lineNumbers } from "@codemirror/view";
import { useQuery } from "@tanstack/react-query";
import { type FileChange, FileMissing, type Sandbox } from "bay-sandbox";
import { type ReactNode, useEffect, useRef } from "react";
import { bay } from "@/bay";
import { useTheme } from "@/lib/theme";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { Failed, Loading } from "@/ui/states";
import { languageOf, looks } from "../files/editor";
import { textOf } from "../files/kinds";
import type { Compared } from "./compare";
import { NOW } from "./graph";
import { checkpointWords } from "./words";

const MOST_BYTES = 1024 * 1024;

type Texts = { kind: "texts"; before: string; after: string } | { kind: "large" | "binary" | "asleep" };

async function read(box: Sandbox, change: FileChange, compared: Compared): Promise<Texts> {
  const { before, after, path } = change;
  if (Math.max(before?.size ?? 0, after?.size ?? 0) > MOST_BYTES) return { kind: "large" };
  const isNow = compared.to === NOW;
  if (isNow && after?.type === "file" && box.compute !== "running") return { kind: "asleep" };
  const found = await bay.sandboxes.get(box.id);
  const old =
    before?.type === "file" ? await found.readCheckpointFile(compared.from, path) : new Uint8Array();
  const later = async (): Promise<Uint8Array> => {
    if (after?.type !== "file") return new Uint8Array();
    if (!isNow) return found.readCheckpointFile(compared.to, path);
    try {
      return await found.files.read(path, { length: MOST_BYTES });
    } catch (error) {
      if (error instanceof FileMissing) return new Uint8Array(); // it was removed since
      throw error;
    }
  };
  const [one, other] = [textOf(old), textOf(await later())];
  if (one === null || other === null) return { kind: "binary" };
  return { kind: "texts", before: one.text, after: other.text };
}

export default function Lines({
  box,
  change,
  compared,
}: {
  box: Sandbox;
  change: FileChange;
  compared: Compared;
}): ReactNode {
  const say = useWords(checkpointWords);
  const { data, error } = useQuery({
    queryKey: keys.of(box.id, "checkpoints", "lines", compared.from, compared.to, change.path, box.compute),
    queryFn: () => read(box, change, compared),
    staleTime: 0,
    gcTime: 0,
  });
  if (error) return <Failed error={error} />;
  if (data === undefined) return <Loading />;
  if (data.kind !== "texts") return <p className="py-6 text-center text-sm text-muted">{say(data.kind)}</p>;
  if (data.before === data.after)
    return <p className="py-6 text-center text-sm text-muted">{say("sameText")}</p>;
  return <Merged before={data.before} after={data.after} path={change.path} />;
}

const COLOURS = EditorView.theme({
  ".cm-changedLine, &.cm-merge-b .cm-changedLine": { backgroundColor: "var(--color-good-soft)" },
  ".cm-deletedChunk": { backgroundColor: "var(--color-bad-soft)" },
  ".cm-deletedChunk .cm-deletedText, .cm-deletedText": { background: "none", fontWeight: "600" },
  "&.cm-merge-b .cm-changedText, .cm-changedText": { background: "none", fontWeight: "600" },
  ".cm-collapsedLines": {
    background: "var(--color-raised)",
    color: "var(--color-muted)",
  },
  // Its own sign is in few fonts.
  ".cm-collapsedLines:before, .cm-collapsedLines:after": { content: '"···"' },
});

function Merged({ before, after, path }: { before: string; after: string; path: string }): ReactNode {
  const isDark = useTheme() === "dark";
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    let view: EditorView | null = null;
    let isOver = false;
    void languageOf(path)
      .catch(() => [])
      .then((language) => {
        if (isOver || place.current === null) return;
        const extensions = [
          lineNumbers(),
          EditorState.readOnly.of(true),
          EditorView.contentAttributes.of({ "aria-label": path }),
          language,
          looks(isDark),
          COLOURS,
          unifiedMergeView({
            original: before,
            mergeControls: false,
            collapseUnchanged: { margin: 3, minSize: 6 },
          }),
        ];
        view = new EditorView({
          state: EditorState.create({ doc: after, extensions }),
          parent: place.current,
        });
      });
    return () => {
      isOver = true;
      view?.destroy();
    };
  }, [before, after, path, isDark]);
  return <div ref={place} className="max-h-[60vh] min-h-40 overflow-auto rounded-lg border" />;
}

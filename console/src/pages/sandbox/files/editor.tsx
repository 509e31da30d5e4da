/** CodeMirror for one text. Its colours are those of the page, so they are right in light and in dark. */

import { indentWithTab } from "@codemirror/commands";
import { HighlightStyle, LanguageDescription, syntaxHighlighting } from "@codemirror/language";
import { languages } from "@codemirror/language-data";
import { Compartment, type Text as Doc, EditorState, type Extension } from "@codemirror/state";
import { EditorView, keymap } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { basicSetup } from "codemirror";
import { type ReactNode, useEffect, useRef } from "react";
import { useTheme } from "@/lib/theme";
import type { Text } from "./kinds";
import { nameOf } from "./paths";

const COLOURS = HighlightStyle.define([
  {
    tag: [tags.keyword, tags.modifier, tags.operatorKeyword],
    color: "var(--color-accent)",
    fontWeight: "600",
  },
  { tag: [tags.string, tags.special(tags.string), tags.regexp], color: "var(--color-good)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: "var(--color-warn)" },
  { tag: [tags.comment, tags.meta], color: "var(--color-muted)", fontStyle: "italic" },
  {
    tag: [
      tags.function(tags.variableName),
      tags.definition(tags.variableName),
      tags.className,
      tags.typeName,
      tags.tagName,
    ],
    color: "var(--color-accent)",
  },
  { tag: [tags.attributeName, tags.propertyName], color: "var(--color-warn)" },
  { tag: tags.heading, fontWeight: "700" },
  { tag: tags.strong, fontWeight: "700" },
  { tag: tags.emphasis, fontStyle: "italic" },
  { tag: [tags.link, tags.url], color: "var(--color-accent)", textDecoration: "underline" },
  { tag: tags.invalid, color: "var(--color-bad)" },
]);

const LOOKS = {
  "&": { height: "100%", backgroundColor: "var(--color-panel)", color: "var(--color-ink)", fontSize: "13px" },
  ".cm-scroller": { fontFamily: "var(--font-mono)", lineHeight: "1.55" },
  ".cm-content": { caretColor: "var(--color-ink)" },
  ".cm-cursor": { borderLeftColor: "var(--color-ink)" },
  ".cm-gutters": {
    backgroundColor: "var(--color-page)",
    color: "var(--color-muted)",
    borderRight: "1px solid var(--color-line)",
  },
  ".cm-activeLine, .cm-activeLineGutter": {
    backgroundColor: "color-mix(in srgb, var(--color-raised) 70%, transparent)",
  },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground, .cm-content ::selection":
    {
      backgroundColor: "color-mix(in srgb, var(--color-accent) 30%, transparent)",
    },
  "&.cm-focused": { outline: "none" },
  ".cm-panels": { backgroundColor: "var(--color-page)", color: "var(--color-ink)" },
  ".cm-panels input, .cm-panels button": {
    color: "var(--color-ink)",
    backgroundColor: "var(--color-panel)",
    backgroundImage: "none",
    border: "1px solid var(--color-strong-line)",
  },
  ".cm-tooltip": {
    backgroundColor: "var(--color-panel)",
    border: "1px solid var(--color-line)",
    color: "var(--color-ink)",
  },
  ".cm-specialChar": { color: "var(--color-bad)" },
  ".cm-searchMatch": { backgroundColor: "var(--color-warn-soft)" },
};

/** The looks that the editor and the comparison share. */
export function looks(isDark: boolean): Extension {
  return [EditorView.theme(LOOKS, { dark: isDark }), syntaxHighlighting(COLOURS)];
}

/** The language of a file by its name, once it is loaded; none for a name that says nothing. */
export async function languageOf(path: string): Promise<Extension> {
  const found = LanguageDescription.matchFilename(languages, nameOf(path));
  return found === null ? [] : found.load();
}

export interface Edited {
  read(): string;
  isDirty: boolean;
}

interface Given {
  path: string;
  /** What is in the file. */
  text: Text;
  /** Counts the times that it was read: another number, and the text that is shown is given up for it. */
  readAt: number;
  /** What was typed before and is not saved. */
  draft: string | null;
  isReadOnly: boolean;
  label: string;
  line: number | null;
  onChange(edited: Edited): void;
}

export default function Editor({
  path,
  text,
  readAt,
  draft,
  isReadOnly,
  label,
  line,
  onChange,
}: Given): ReactNode {
  const isDark = useTheme() === "dark";
  const place = useRef<HTMLDivElement>(null);
  const editor = useRef<{ view: EditorView; theme: Compartment; only: Compartment } | null>(null);
  const saved = useRef<Doc | null>(null);
  const shownAt = useRef(readAt);
  const tell = useRef(onChange);
  tell.current = onChange;
  const first = useRef({ text, draft, line, isDark, isReadOnly, label });

  useEffect(() => {
    if (place.current === null) return;
    const {
      text: given,
      draft: typed,
      isDark: dark,
      isReadOnly: only,
      label: name,
      line: start,
    } = first.current;
    const theme = new Compartment();
    const reading = new Compartment();
    const language = new Compartment();
    const separator = EditorState.lineSeparator.of(given.ends);
    saved.current = EditorState.create({ doc: given.text, extensions: separator }).doc;
    const state = EditorState.create({
      doc: typed ?? given.text,
      extensions: [
        separator,
        basicSetup,
        keymap.of([indentWithTab]),
        language.of([]),
        theme.of(looks(dark)),
        reading.of(EditorState.readOnly.of(only)),
        EditorView.contentAttributes.of({ "aria-label": name }),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) tell.current(editedOf(update.state, saved.current));
        }),
      ],
    });
    const view = new EditorView({ state, parent: place.current });
    editor.current = { view, theme, only: reading };
    let isOver = false;
    void languageOf(path)
      .then((found) => isOver || view.dispatch({ effects: language.reconfigure(found) }))
      .catch(() => undefined); // it is shown without colours then
    if (start !== null && start <= view.state.doc.lines) {
      const { from } = view.state.doc.line(start);
      view.dispatch({
        selection: { anchor: from },
        effects: EditorView.scrollIntoView(from, { y: "center" }),
      });
      view.focus();
    }
    return () => {
      isOver = true;
      view.destroy();
      editor.current = null;
    };
  }, [path]);

  useEffect(() => {
    const { current } = editor;
    if (current === null) return;
    const { view } = current;
    saved.current = EditorState.create({
      doc: text.text,
      extensions: EditorState.lineSeparator.of(text.ends),
    }).doc;
    if (shownAt.current !== readAt && !view.state.doc.eq(saved.current)) {
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: saved.current } });
    }
    shownAt.current = readAt;
    tell.current(editedOf(view.state, saved.current));
  }, [text, readAt]);

  useEffect(() => {
    const { current } = editor;
    current?.view.dispatch({
      effects: [
        current.theme.reconfigure(looks(isDark)),
        current.only.reconfigure(EditorState.readOnly.of(isReadOnly)),
      ],
    });
  }, [isDark, isReadOnly]);

  return <div ref={place} className="h-full min-h-0 overflow-hidden" />;
}

function editedOf(state: EditorState, saved: Doc | null): Edited {
  return { read: () => state.sliceDoc(), isDirty: saved !== null && !state.doc.eq(saved) };
}

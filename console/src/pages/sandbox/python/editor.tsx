/** The code of one cell. */

import { indentWithTab } from "@codemirror/commands";
import { indentUnit, LanguageDescription } from "@codemirror/language";
import { languages } from "@codemirror/language-data";
import { Compartment, EditorState, Prec } from "@codemirror/state";
import { EditorView, keymap } from "@codemirror/view";
import { basicSetup } from "codemirror";
import { type ReactNode, useEffect, useRef } from "react";
import { useTheme } from "@/lib/theme";
import { looks } from "../files/editor";

export interface EditorProps {
  code: string;
  label: string;
  language: string;
  isReadOnly: boolean;
  /** Whether the keyboard is to be in it now. */
  focused: boolean;
  onChange(code: string): void;
  onFocus(): void;
  /** `next`: and go on to the next cell. */
  run(next: boolean): void;
}

export function CellEditor(props: EditorProps): ReactNode {
  const isDark = useTheme() === "dark";
  const place = useRef<HTMLDivElement>(null);
  const made = useRef<{ view: EditorView; theme: Compartment } | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const first = useRef({ code: props.code, label: props.label, isDark, isReadOnly: props.isReadOnly });
  const { language, focused } = props;

  useEffect(() => {
    if (place.current === null) return;
    const { code, label, isDark: dark, isReadOnly } = first.current;
    const theme = new Compartment();
    const grammar = new Compartment();
    const run = (next: boolean) => () => {
      latest.current.run(next);
      return true;
    };
    const view = new EditorView({
      parent: place.current,
      state: EditorState.create({
        doc: code,
        extensions: [
          Prec.highest(
            keymap.of([
              { key: "Shift-Enter", run: run(true) },
              { key: "Ctrl-Enter", mac: "Cmd-Enter", run: run(false) },
            ]),
          ),
          basicSetup,
          keymap.of([indentWithTab]),
          indentUnit.of("    "),
          grammar.of([]),
          theme.of(looks(dark)),
          EditorState.readOnly.of(isReadOnly),
          EditorView.lineWrapping,
          EditorView.contentAttributes.of({ "aria-label": label }),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) latest.current.onChange(update.state.doc.toString());
            if (update.focusChanged && update.view.hasFocus) latest.current.onFocus();
          }),
        ],
      }),
    });
    made.current = { view, theme };
    let isOver = false;
    void LanguageDescription.matchLanguageName(languages, language)
      ?.load()
      .then((found) => isOver || view.dispatch({ effects: grammar.reconfigure(found) }))
      .catch(() => undefined); // it is shown without colours then
    return () => {
      isOver = true;
      view.destroy();
      made.current = null;
    };
  }, [language]);

  useEffect(() => {
    const { current } = made;
    current?.view.dispatch({ effects: current.theme.reconfigure(looks(isDark)) });
  }, [isDark]);

  useEffect(() => {
    if (focused) made.current?.view.focus();
  }, [focused]);

  return <div ref={place} className="min-w-0 overflow-hidden" />;
}

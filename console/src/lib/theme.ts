/** Light or dark: the user's choice, else what the system prefers. */

import { useSyncExternalStore } from "react";
import { readSetting, writeSetting } from "./settings";

export type Theme = "light" | "dark";
export type ThemeChoice = Theme | "system";

const NAME = "theme";
const dark = window.matchMedia?.("(prefers-color-scheme: dark)");
const listeners = new Set<() => void>();
let choice = read();

function read(): ThemeChoice {
  const kept = readSetting(NAME);
  return kept === "light" || kept === "dark" ? kept : "system";
}

function theme(): Theme {
  if (choice !== "system") return choice;
  return dark?.matches ? "dark" : "light";
}

function show(): void {
  document.documentElement.dataset["theme"] = theme();
  for (const listener of listeners) listener();
}

export function setTheme(wanted: ThemeChoice): void {
  choice = wanted;
  writeSetting(NAME, wanted === "system" ? null : wanted);
  show();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The theme that is shown. */
export function useTheme(): Theme {
  return useSyncExternalStore(subscribe, theme);
}

/** The user's choice. */
export function useThemeChoice(): ThemeChoice {
  return useSyncExternalStore(subscribe, () => choice);
}

dark?.addEventListener("change", show);
show();

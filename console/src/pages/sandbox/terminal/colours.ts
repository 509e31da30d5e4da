/** The colours of terminals. xterm moves those that a program chooses to the contrast of WCAG AA. */

import type { ITheme } from "@xterm/xterm";
import type { Theme } from "@/lib/theme";

/** Of any text on what is behind it. */
export const CONTRAST = 4.5;

const DARK: ITheme = {
  background: "#0a1319",
  foreground: "#e6eef3",
  cursor: "#4cc3dd",
  cursorAccent: "#0a1319",
  selectionBackground: "#1f5566",
  selectionInactiveBackground: "#263944",
  black: "#182831",
  red: "#ff8f82",
  green: "#58d68d",
  yellow: "#f5b85c",
  blue: "#7db4ff",
  magenta: "#d9a1f5",
  cyan: "#4cc3dd",
  white: "#d5dde3",
  brightBlack: "#8796a3",
  brightRed: "#ffb0a6",
  brightGreen: "#86e5ae",
  brightYellow: "#fbd08c",
  brightBlue: "#a9ceff",
  brightMagenta: "#e8c4fb",
  brightCyan: "#86dcef",
  brightWhite: "#ffffff",
};

const LIGHT: ITheme = {
  background: "#ffffff",
  foreground: "#10202b",
  cursor: "#0e7490",
  cursorAccent: "#ffffff",
  selectionBackground: "#a9dbe8",
  selectionInactiveBackground: "#d5dde3",
  black: "#10202b",
  red: "#b42318",
  green: "#11703c",
  yellow: "#8a4b00",
  blue: "#1d4ed8",
  magenta: "#8b2bb0",
  cyan: "#0e7490",
  white: "#d5dde3",
  brightBlack: "#51626e",
  brightRed: "#c9372c",
  brightGreen: "#177a45",
  brightYellow: "#9a5a06",
  brightBlue: "#2f5fe0",
  brightMagenta: "#9c3bc2",
  brightCyan: "#117d99",
  brightWhite: "#f6f8fa",
};

export function coloursOf(theme: Theme): ITheme {
  return theme === "dark" ? DARK : LIGHT;
}

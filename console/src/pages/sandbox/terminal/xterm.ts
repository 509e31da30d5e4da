/** xterm as the console uses it: what a program prints is shown, and can do nothing else. */

import "./cell_styles";
import "@xterm/xterm/css/xterm.css";
import { FitAddon } from "@xterm/addon-fit";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { type ITerminalOptions, Terminal } from "@xterm/xterm";
import type { Theme } from "@/lib/theme";
import { CONTRAST, coloursOf } from "./colours";
import { openLink, plainPaste, webAddress } from "./plain";

const SCROLLBACK_LINES = 5_000;
const FALLBACK_FONT = "ui-monospace, monospace";

export interface Looks {
  theme: Theme;
  fontSize: number;
  screenReader: boolean;
}

/** Options that follow the user's choices while it is shown. */
export function looksOf({ theme, fontSize, screenReader }: Looks): ITerminalOptions {
  return { theme: coloursOf(theme), fontSize, screenReaderMode: screenReader };
}

/**
 * A terminal that is not yet on the page. `pointed` hears the address of the link under the pointer: a program may
 * give a link (OSC 8) another text than its address.
 *
 * Programs cannot read or set the clipboard (OSC 52) and cannot read the title or move the window (CSI t): xterm
 * leaves those out unless an addon or an option adds them, and `xterm.test.ts` holds that.
 */
export function makeTerminal(
  looks: Looks,
  readOnly = false,
  pointed: (address: string | null) => void = () => undefined,
): Terminal {
  const font = getComputedStyle(document.documentElement).getPropertyValue("--font-mono");
  const terminal = new Terminal({
    ...looksOf(looks),
    allowProposedApi: true, // of the widths of Unicode 11
    convertEol: false,
    cursorBlink: false,
    cursorInactiveStyle: readOnly ? "none" : "outline",
    disableStdin: readOnly,
    fontFamily: font || FALLBACK_FONT,
    lineHeight: 1.15,
    minimumContrastRatio: CONTRAST,
    scrollback: SCROLLBACK_LINES,
    linkHandler: {
      activate: (_, text) => openLink(text),
      hover: (_, text) => pointed(webAddress(text)),
      leave: () => pointed(null),
    },
  });
  terminal.loadAddon(new Unicode11Addon());
  terminal.unicode.activeVersion = "11";
  terminal.loadAddon(
    new WebLinksAddon((_, text) => openLink(text), {
      hover: (_, text) => pointed(webAddress(text)),
      leave: () => pointed(null),
    }),
  );
  return terminal;
}

/** Put it into `place` and keep it as large as that. Gives what ends that. */
export function showIn(terminal: Terminal, place: HTMLElement): () => void {
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  terminal.open(place);
  const onSize = (): void => {
    if (place.clientWidth > 0 && place.clientHeight > 0) fit.fit();
  };
  const sizes = new ResizeObserver(onSize);
  sizes.observe(place);
  onSize();
  const onPaste = (event: ClipboardEvent): void => {
    event.preventDefault();
    event.stopPropagation();
    if (!terminal.options.disableStdin)
      terminal.paste(plainPaste(event.clipboardData?.getData("text/plain") ?? ""));
  };
  place.addEventListener("paste", onPaste, true);
  return () => {
    sizes.disconnect();
    place.removeEventListener("paste", onPaste, true);
  };
}

/** Copy what is selected, also where the page may not use the clipboard by itself (no TLS). */
export async function copySelection(terminal: Terminal): Promise<void> {
  const text = terminal.getSelection();
  if (!text) return;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    document.execCommand("copy"); // xterm fills in what is selected
  }
}

/** The keys that are the page's: copy and paste, and the way out of the terminal. All others are the program's. */
export function ownKeys(terminal: Terminal, leave: () => void): void {
  terminal.attachCustomKeyEventHandler((event) => {
    if (!event.ctrlKey || !event.shiftKey || event.altKey) return true;
    const isDown = event.type === "keydown";
    switch (event.code) {
      case "KeyC":
        event.preventDefault();
        if (isDown) void copySelection(terminal);
        return false;
      case "KeyV":
        return false; // the browser pastes
      case "ArrowUp":
        event.preventDefault();
        if (isDown) leave();
        return false;
      default:
        return true;
    }
  });
}

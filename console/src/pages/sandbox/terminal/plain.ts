/** Text of a sandbox made fit for a line of the page. */

/** Controls, and characters that change the direction of what follows or show nothing (Unicode, UAX 9 and Cf). */
const UNFIT = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]+/gu;
const LONGEST = 48;

/** One short line without characters that hide or turn text; empty when nothing is left. */
export function plainLine(text: string, longest = LONGEST): string {
  const line = text
    .slice(0, longest * 8)
    .replace(UNFIT, " ")
    .replace(/\s+/g, " ")
    .trim();
  const letters = [...line];
  return letters.length > longest ? `${letters.slice(0, longest - 1).join("")}…` : line;
}

/**
 * Pasted text without controls but tabs and line ends: an escape in it could end a bracketed paste (xterm's mode
 * 2004) early, and what comes behind would count as typed.
 */
export function plainPaste(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
  return text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/g, "");
}

/** The address of a link that may be opened: http and https only. */
export function webAddress(text: string): string | null {
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

/** Open a link of a sandbox in a page that knows nothing of this one. */
export function openLink(text: string): void {
  const address = webAddress(text);
  if (address !== null) window.open(address, "_blank", "noopener,noreferrer");
}

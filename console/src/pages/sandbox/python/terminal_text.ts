/** Printed text as a page shows it: what a terminal would show, without colours. */

const ESC = "\\x1b";
// ECMA-48: control sequences, strings of the kinds OSC, DCS, SOS, PM and APC, and other escapes.
const ESCAPES = new RegExp(
  [
    `${ESC}\\[[0-?]*[ -/]*[@-~]`,
    `${ESC}[\\]PX^_][^\\x07\\x1b]*(?:\\x07|${ESC}\\\\)?`,
    `${ESC}[ -/]*[0-~]`,
    ESC,
  ].join("|"),
  "g",
);
const CONTROLS = /(?![\t\n])\p{Cc}/gu;

/** A carriage return begins its line anew, as progress bars do; a backspace steps back. */
export function terminalText(text: string): string {
  const plain = text.replace(ESCAPES, "").replace(/\r+\n/g, "\n");
  return plain
    .split("\n")
    .map((line) => (/[\r\b]/.test(line) ? overwritten(line) : line))
    .join("\n")
    .replace(CONTROLS, "");
}

function overwritten(line: string): string {
  const shown: string[] = [];
  let at = 0;
  for (const letter of line) {
    if (letter === "\r") at = 0;
    else if (letter === "\b") at = Math.max(0, at - 1);
    else {
      shown[at] = letter;
      at += 1;
    }
  }
  return shown.join("");
}

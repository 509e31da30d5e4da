import { afterEach, expect, test, vi } from "vitest";
import { CONTRAST, coloursOf } from "./colours";
import { makeTerminal } from "./xterm";

const LOOKS = { theme: "light" as const, fontSize: 13, screenReader: false };

afterEach(() => vi.unstubAllGlobals());

/** What a program's output makes the terminal do. */
async function printed(
  text: string,
): Promise<{ typed: string; titles: string[]; copied: string[]; opened: unknown[] }> {
  const done = { typed: "", titles: [] as string[], copied: [] as string[], opened: [] as unknown[] };
  const writeText = async (copy: string): Promise<void> => void done.copied.push(copy);
  vi.stubGlobal("navigator", { ...navigator, clipboard: { writeText, readText: async () => "secret" } });
  vi.spyOn(window, "open").mockImplementation((...given) => {
    done.opened.push(given);
    return null;
  });
  const terminal = makeTerminal(LOOKS);
  terminal.onData((data) => {
    done.typed += data;
  });
  terminal.onTitleChange((title) => done.titles.push(title));
  await new Promise<void>((resolve) => terminal.write(text, resolve));
  terminal.dispose();
  return done;
}

test("a program cannot set or read the clipboard", async () => {
  const done = await printed("\x1b]52;c;ZXZpbA==\x07\x1b]52;c;?\x07\x1b]52;p;ZXZpbA==\x1b\\");
  expect(done.copied).toEqual([]);
  expect(done.typed).toBe("");
});

test("a program cannot have its title, the window's size or an old answer typed into the shell", async () => {
  const done = await printed(
    "\x1b]0;rm -rf /\x07\x1b[21t\x1b[20t\x1b[14t\x1b[18t\x1b[8;1000;1000t\x05\x1b]1337;x\x07",
  );
  expect(done.typed).toBe("");
  expect(done.titles).toEqual(["rm -rf /"]);
});

test("answers to a program's questions have nothing that a program chose", async () => {
  const done = await printed(
    "\x1b[c\x1b[>c\x1b[6n\x1b[5n\x1bP$qevil;ls\n\x1b\\\x1b]4;1;?\x07\x1bP+q6576696c\x1b\\",
  );
  expect(done.typed).not.toBe("");
  for (const chosen of ["evil", "ls", "\r", "\n", "\x03", "\x04"]) expect(done.typed).not.toContain(chosen);
});

test("a link of a program is not opened by being printed", async () => {
  const done = await printed("\x1b]8;;https://example.com\x07text\x1b]8;;\x07 https://example.com\r\n");
  expect(done.opened).toEqual([]);
});

test("printed text moves neither the page's title nor its address", async () => {
  const before = [document.title, location.href];
  await printed("\x1b]0;evil\x07\x1b]2;evil\x07\x1b]7;file:///etc\x07\x1b]9;note\x07\x1b]777;notify;a;b\x07");
  expect([document.title, location.href]).toEqual(before);
});

/** The contrast of two colours, WCAG 2.2's formula. */
function contrast(one: string, other: string): number {
  const light = (colour: string): number => {
    const parts = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16) / 255);
    const [red = 0, green = 0, blue = 0] = parts.map((part) =>
      part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [low = 0, high = 0] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

test.each(["light", "dark"] as const)(
  "the text of the %s theme has the contrast of AA, selected too",
  (theme) => {
    const colours = coloursOf(theme);
    for (const behind of [
      colours.background,
      colours.selectionBackground,
      colours.selectionInactiveBackground,
    ])
      expect(contrast(colours.foreground ?? "", behind ?? "")).toBeGreaterThan(CONTRAST);
    for (const name of [
      "red",
      "green",
      "yellow",
      "blue",
      "magenta",
      "cyan",
      "brightBlack",
      "brightRed",
      "brightGreen",
    ] as const)
      expect(contrast(colours[name] ?? "", colours.background ?? ""), name).toBeGreaterThan(CONTRAST);
    const terminal = makeTerminal({ ...LOOKS, theme });
    expect(terminal.options.minimumContrastRatio).toBeGreaterThanOrEqual(CONTRAST);
    terminal.dispose();
  },
);

test("a cell's colours are set by script, for the page's policy refuses style attributes", async () => {
  await import("./cell_styles");
  const span = document.createElement("span");
  span.setAttribute("style", "color: rgb(1, 2, 3);");
  expect(span.style.color).toBe("rgb(1, 2, 3)");
  span.setAttribute("class", "xterm-bold");
  expect(span.className).toBe("xterm-bold");
});

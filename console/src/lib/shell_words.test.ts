import { expect, test } from "vitest";
import { shellLine, shellWords } from "./shell_words";

test("words are split as a shell splits them", () => {
  expect(shellWords(`python3 -c 'print("a b")' "x y"\\ z ''`)).toEqual([
    "python3",
    "-c",
    'print("a b")',
    "x y z",
    "",
  ]);
  expect(shellWords("  ")).toEqual([]);
  expect(shellWords("echo 'open")).toBeNull();
});

test("a line of words is read as the same words", () => {
  const words = ["sh", "-c", "echo 'it''s' $HOME; ls", "", "a b", "ünï"];
  expect(shellWords(shellLine(words))).toEqual(words);
});

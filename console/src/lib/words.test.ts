import { expect, test } from "vitest";

interface Part {
  part: string;
  en: Record<string, string>;
}

const modules = import.meta.glob<Record<string, Part>>("/src/**/words.ts", { eager: true });

function places(text: string): string[] {
  return [...text.matchAll(/\{\{(\w+)\}\}/g)].map((found) => found[1] ?? "").sort();
}

test("the Chinese text of each English one has the same places for values", async () => {
  const { default: i18next } = await import("i18next");
  const parts = Object.values(modules).flatMap((one) => Object.values(one).filter((found) => found.part));
  expect(parts.length).toBeGreaterThan(3);
  for (const { part, en } of parts) {
    for (const [name, text] of Object.entries(en)) {
      const zh = i18next.getResource("zh", part, name) as string;
      expect(places(zh), `${part}.${name}`).toEqual(places(text));
      expect(zh, `${part}.${name}`).not.toBe("");
    }
  }
});

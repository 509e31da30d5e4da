/** Which item of a tree or a list a key leads to. */

/** The item before or behind one, the first or the last; null for other keys and where there is none. */
export function neighbour<T>(items: readonly T[], item: T, key: string): T | null {
  const at = items.indexOf(item);
  switch (key) {
    case "ArrowDown":
      return items[at + 1] ?? null;
    case "ArrowUp":
      return items[at - 1] ?? null;
    case "Home":
      return items[0] ?? null;
    case "End":
      return items.at(-1) ?? null;
    default:
      return null;
  }
}

/** The next item whose name begins with the letter that was typed, from the top again after the last. */
export function typed<T>(items: readonly T[], item: T, key: string, nameOf: (item: T) => string): T | null {
  if ([...key].length !== 1 || key === " ") return null;
  const at = items.indexOf(item);
  const order = [...items.slice(at + 1), ...items.slice(0, at + 1)];
  const letter = key.toLowerCase();
  return order.find((one) => nameOf(one).toLowerCase().startsWith(letter)) ?? null;
}

/** Images of a cell as addresses that carry them. An SVG in an `img` runs no script and loads nothing. */

const KINDS = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const SVG = "image/svg+xml";
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

export function imageIn(data: Readonly<Record<string, unknown>>): string | null {
  for (const kind of KINDS) {
    const given = data[kind];
    if (typeof given !== "string") continue;
    const text = given.replace(/\s/g, "");
    if (BASE64.test(text)) return `data:${kind};base64,${text}`;
  }
  const svg = data[SVG];
  return typeof svg === "string" ? `data:${SVG};charset=utf-8,${encodeURIComponent(svg)}` : null;
}

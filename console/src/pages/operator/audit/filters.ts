/** The filters of the audit, as the address of the page has them and as the API takes them. */

export const TEXTS = ["owner", "key_id", "path", "resource_id", "request_id"] as const;
export const METHODS = ["POST", "PUT", "PATCH", "DELETE", "WEBSOCKET"] as const;
export const STATUSES = { ok: "2xx", refused: "4xx", defect: "5xx" } as const;
const HOUR_MS = 3_600_000;
export const RANGES = {
  hour: HOUR_MS,
  day: 24 * HOUR_MS,
  week: 168 * HOUR_MS,
  month: 720 * HOUR_MS,
} as const;
export type Range = keyof typeof RANGES;

const NAMES = [...TEXTS, "method", "status"] as const;

function rangeOf(text: string | null): Range | null {
  return text !== null && Object.hasOwn(RANGES, text) ? (text as Range) : null;
}

/** What of the address is a filter: whatever else it has is no part of the question. */
export function filtersOf(query: URLSearchParams): Record<string, string> {
  const given = NAMES.map((name) => [name, (query.get(name) ?? "").trim()] as const);
  const found = Object.fromEntries(given.filter(([, value]) => value !== ""));
  const range = rangeOf(query.get("range"));
  return range === null ? found : { ...found, range };
}

/** The same as a query of the API, at that moment. */
export function questionOf(
  { range, ...filters }: Record<string, string>,
  now = Date.now(),
): Record<string, string> {
  const found = rangeOf(range ?? null);
  return found === null ? filters : { ...filters, since: new Date(now - RANGES[found]).toISOString() };
}
